//! Pickles, as Python's `pickle` reads them: the few kinds of values that archives of PyTorch and
//! stable-baselines3 hold. Written, never read.

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Int(i32),
    Float(f64),
    Text(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    /// `collections.OrderedDict`.
    Ordered(Vec<(Value, Value)>),
    /// What a module calls by a name.
    Name(&'static str, &'static str),
    /// What comes of calling the first with the others.
    Call(Box<Value>, Vec<Value>),
    /// What the archive keeps elsewhere, by a tuple that finds it.
    Elsewhere(Vec<Value>),
}

impl Value {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A whole number that is known to be small.
    pub(super) fn count(count: usize) -> Self {
        Self::Int(i32::try_from(count).expect("invariant: networks are small"))
    }

    /// A call of what a module calls by a name.
    pub(super) fn call(module: &'static str, name: &'static str, arguments: Vec<Self>) -> Self {
        Self::Call(Box::new(Self::Name(module, name)), arguments)
    }

    /// A dictionary with keys of text.
    pub(super) fn dict<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Dict(entries.into_iter().map(|(key, value)| (Self::text(key), value)).collect())
    }

    /// As a pickle of protocol 2, which all of Python 3 reads.
    pub(super) fn pickled(&self) -> Vec<u8> {
        let mut bytes = vec![0x80, 2];
        self.write(&mut bytes);
        bytes.push(b'.');
        bytes
    }

    /// Opcodes that leave the value on the reader's stack.
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bool(value) => bytes.push(if *value { 0x88 } else { 0x89 }),
            Self::Int(value) => {
                bytes.push(b'J');
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            Self::Float(value) => {
                bytes.push(b'G');
                bytes.extend_from_slice(&value.to_be_bytes());
            }
            Self::Text(text) => {
                bytes.push(b'X');
                bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
            Self::Tuple(values) => {
                bytes.push(b'(');
                for value in values {
                    value.write(bytes);
                }
                bytes.push(b't');
            }
            Self::List(values) => {
                bytes.extend_from_slice(b"](");
                for value in values {
                    value.write(bytes);
                }
                bytes.push(b'e');
            }
            Self::Dict(entries) => {
                bytes.push(b'}');
                set_items(entries, bytes);
            }
            Self::Ordered(entries) => {
                Self::call("collections", "OrderedDict", Vec::new()).write(bytes);
                set_items(entries, bytes);
            }
            Self::Name(module, name) => bytes.extend_from_slice(format!("c{module}\n{name}\n").as_bytes()),
            Self::Call(called, arguments) => {
                called.write(bytes);
                Self::Tuple(arguments.clone()).write(bytes);
                bytes.push(b'R');
            }
            Self::Elsewhere(place) => {
                Self::Tuple(place.clone()).write(bytes);
                bytes.push(b'Q');
            }
        }
    }
}

/// Puts entries into the dictionary on the stack.
fn set_items(entries: &[(Value, Value)], bytes: &mut Vec<u8>) {
    bytes.push(b'(');
    for (key, value) in entries {
        key.write(bytes);
        value.write(bytes);
    }
    bytes.push(b'u');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_those_of_the_protocol() {
        assert_eq!(Value::Bool(true).pickled(), b"\x80\x02\x88.");
        assert_eq!(Value::Int(-2).pickled(), b"\x80\x02J\xfe\xff\xff\xff.");
        assert_eq!(Value::Float(1.0).pickled(), b"\x80\x02G\x3f\xf0\0\0\0\0\0\0.");
        let pair = Value::Tuple(vec![Value::text("a"), Value::List(vec![Value::count(1)])]);
        assert_eq!(pair.pickled(), b"\x80\x02(X\x01\0\0\0a](J\x01\0\0\0et.");
        let ordered = Value::Ordered(vec![(Value::text("k"), Value::Bool(false))]);
        assert_eq!(ordered.pickled(), b"\x80\x02ccollections\nOrderedDict\n(tR(X\x01\0\0\0k\x89u.");
        let kept = Value::Elsewhere(vec![Value::Name("torch", "FloatStorage")]);
        assert_eq!(kept.pickled(), b"\x80\x02(ctorch\nFloatStorage\ntQ.");
    }
}
