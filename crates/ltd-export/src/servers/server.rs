//! The servers.

use clap::ValueEnum;

use super::form::{Place, ServerForm};
use super::setting::Setting;
use super::{llama_cpp, openvino, sglang, tensorrt_llm, vllm};

/// A server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Server {
    /// SGLang
    #[value(name = "sglang")]
    SgLang,
    /// vLLM
    #[value(name = "vllm")]
    Vllm,
    /// TensorRT-LLM
    #[value(name = "tensorrt-llm")]
    TensorRtLlm,
    /// llama.cpp's server
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// OpenVINO GenAI
    #[value(name = "openvino")]
    OpenVino,
}

impl Server {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::SgLang => "sglang",
            Self::Vllm => "vllm",
            Self::TensorRtLlm => "tensorrt-llm",
            Self::LlamaCpp => "llama.cpp",
            Self::OpenVino => "openvino",
        }
    }

    /// The version whose form is written.
    pub fn version(self) -> &'static str {
        match self {
            Self::SgLang => sglang::VERSION,
            Self::Vllm => vllm::VERSION,
            Self::TensorRtLlm => tensorrt_llm::VERSION,
            Self::LlamaCpp => llama_cpp::VERSION,
            Self::OpenVino => openvino::VERSION,
        }
    }

    /// A setting in its form, or why it does not accept it.
    pub fn form(self, setting: &Setting, place: &Place) -> Result<ServerForm, String> {
        match self {
            Self::SgLang => sglang::form(setting, place),
            Self::Vllm => vllm::form(setting, place),
            Self::TensorRtLlm => tensorrt_llm::form(setting, place),
            Self::LlamaCpp => llama_cpp::form(setting, place),
            Self::OpenVino => openvino::form(setting, place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_its_name_and_version() {
        for server in Server::value_variants() {
            let value = server.to_possible_value().expect("none is hidden");
            assert_eq!(value.get_name(), server.name());
            assert!(server.version().chars().any(|c| c.is_ascii_digit()), "{}", server.version());
        }
    }
}
