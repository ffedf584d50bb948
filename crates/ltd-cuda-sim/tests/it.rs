//! What the simulated devices refuse. LibTorch asks for devices once in a process, and a fault ends
//! it: each case is a process of its own, which is this test again with one of the ignored tests.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use ltd_cuda_sim::{Machine, Values};
use tch::{Cuda, Device, Kind, TchError, Tensor};

const FLOATS: (Kind, Device) = (Kind::Float, Device::Cuda(0));
const SIGSEGV: i32 = 11;

/// Runs one of the ignored tests with two small devices.
fn case(name: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    Values(Machine { devices: 2, memory: 1 << 20 }).rehearse(&mut command);
    command.output().expect("it starts")
}

fn holds(name: &str) {
    let output = case(name);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn the_host_cannot_read_device_memory() {
    let output = case("case_host_read");
    assert_eq!(output.status.signal(), Some(SIGSEGV));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("about to read") && !said.contains("read 1"), "{said}");
}

#[test]
#[ignore = "a case"]
#[expect(unsafe_code, reason = "what must not be done")]
fn case_host_read() {
    let tensor = Tensor::ones([4], FLOATS);
    println!("about to read");
    // SAFETY: None: the process ends here.
    let number = unsafe { *tensor.data_ptr().cast::<f32>() };
    println!("read {number}");
}

#[test]
fn memory_that_was_not_written_is_not_a_number() {
    holds("case_unwritten");
}

#[test]
#[ignore = "a case"]
fn case_unwritten() {
    for _ in 0..2 {
        // The second time it is memory that was written and freed.
        let mut tensor = Tensor::empty([100], FLOATS);
        assert_eq!(tensor.isnan().sum(Kind::Int64).int64_value(&[]), 100);
        let _ = tensor.fill_(1.0);
    }
}

#[test]
fn results_are_those_of_the_cpu_wherever_they_are_computed() {
    holds("case_values");
}

#[test]
#[ignore = "a case"]
fn case_values() {
    assert_eq!(Cuda::device_count(), 2);
    let x = Tensor::randn([7, 5], (Kind::Float, Device::Cpu));
    let y = Tensor::randn([5, 7], (Kind::Float, Device::Cpu));
    let of = |x: &Tensor, y: &Tensor| {
        let (values, places) = x.matmul(y).softmax(-1, Kind::Float).topk(3, -1, true, true);
        (values + places).transpose(0, 1).reshape([-1])
    };
    let expected = of(&x, &y);
    for device in [Device::Cuda(0), Device::Cuda(1)] {
        let result = of(&x.to_device(device), &y.to_device(device));
        assert_eq!(result.device(), device);
        assert_eq!(result.to_device(Device::Cpu), expected);
    }
    let moved = x.to_device(Device::Cuda(0)).to_device(Device::Cuda(1));
    assert_eq!(moved.to_device(Device::Cpu), x);
}

#[test]
fn a_copy_that_nobody_waited_for_is_not_there() {
    holds("case_unfinished");
}

#[test]
#[ignore = "a case"]
fn case_unfinished() {
    let fetched = || Tensor::ones([4], FLOATS).to_device_(Device::Cpu, Kind::Float, true, false);
    let (first, second) = (fetched(), fetched());
    assert_eq!(first.isnan().sum(Kind::Int64).int64_value(&[]), 4);
    Cuda::synchronize(1);
    assert_eq!(first.isnan().sum(Kind::Int64).int64_value(&[]), 4, "the other device was waited for");
    Cuda::synchronize(0);
    for copy in [first, second] {
        assert_eq!(copy, Tensor::from_slice(&[1.0_f32; 4]));
    }
}

#[test]
fn tensors_of_two_places_do_not_mix_and_memory_ends() {
    holds("case_refusals");
}

#[test]
#[ignore = "a case"]
fn case_refusals() {
    let problem = |result: Result<Tensor, TchError>| result.expect_err("refused").to_string();
    let [first, second, host] = [Device::Cuda(0), Device::Cuda(1), Device::Cpu]
        .map(|device| Tensor::ones([3], (Kind::Float, device)));
    for other in [&second, &host] {
        let message = problem(first.f_add(other));
        assert!(message.contains("Expected all tensors to be on the same device"), "{message}");
    }
    // A number has no place.
    let sum = first.f_add(&Tensor::from(2.0_f32)).expect("a sum");
    assert_eq!(sum.to_device(Device::Cpu), Tensor::from_slice(&[3.0_f32; 3]));
    let message = problem(Tensor::f_empty([1 << 20], FLOATS));
    assert!(message.contains("CUDA out of memory"), "{message}");
}
