//! The part of Python's pickle format that a dictionary of tensors is written in.
//!
//! A pickle is a program for a stack machine, and Python's machine calls whatever function the
//! program names. This one knows the functions that rebuild tensors and dictionaries, and calls
//! nothing: any other name is an error, and so is any instruction that such dictionaries do not
//! need. Containers are kept in tables and refer to each other by index, so that no program can
//! make deep structures, and what is recalled is shared, so that a short program cannot make a
//! large one. The instructions are those of Python's `pickletools`, the calls those of
//! `torch.save`.

use std::collections::HashMap;
use std::rc::Rc;

use super::stored_tensor::StoredTensor;

/// Functions that a checkpoint may name, besides storage types.
const ORDERED_DICT: &str = "collections.OrderedDict";
const REBUILD_TENSOR: &str = "torch._utils._rebuild_tensor_v2";
const REBUILD_PARAMETER: &str = "torch._utils._rebuild_parameter";

#[derive(Debug, Clone, PartialEq)]
enum Value {
    None,
    Int(i64),
    Text(Rc<str>),
    /// A function or a storage type.
    Name(Rc<str>),
    /// Index of a tuple.
    Tuple(usize),
    /// Index of a dictionary.
    Dict(usize),
    Storage {
        kind: Rc<str>,
        key: Rc<str>,
    },
    Tensor(Rc<StoredTensor>),
}

#[derive(Default)]
struct Machine<'p> {
    program: &'p [u8],
    stack: Vec<Value>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    tuples: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
}

/// The tensors of a pickled dictionary, in its order.
pub(super) fn tensors(program: &[u8]) -> Result<Vec<(String, StoredTensor)>, String> {
    let mut machine = Machine { program, ..Machine::default() };
    loop {
        let rest = machine.program;
        let step = machine.step().map_err(|problem| match rest.first() {
            Some(&code) => {
                format!("{problem} ({} at byte {})", instruction(code), program.len() - rest.len())
            }
            None => problem,
        });
        if !step? {
            break;
        }
    }
    let Value::Dict(index) = machine.pop()? else { return Err("is not a dictionary".to_owned()) };
    let entries = std::mem::take(&mut machine.dicts[index]).into_iter().map(|entry| match entry {
        (Value::Text(name), Value::Tensor(tensor)) => Ok((name.to_string(), StoredTensor::clone(&tensor))),
        (Value::Text(name), _) => Err(format!("`{name}` is not a tensor")),
        (name, _) => Err(format!("{name:?} is not the name of a tensor")),
    });
    entries.collect()
}

impl Machine<'_> {
    /// Executes an instruction; false after the last one.
    fn step(&mut self) -> Result<bool, String> {
        let code = self.bytes(1)?[0];
        match code {
            // Protocol and frame length.
            0x80 => _ = self.bytes(1)?,
            0x95 => _ = self.bytes(8)?,
            b'.' => return Ok(false),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Int(1)),
            0x89 => self.stack.push(Value::Int(0)),
            b'K' => self.push_int(1)?,
            b'M' => self.push_int(2)?,
            b'J' => {
                let bytes = self.bytes(4)?.try_into().map_err(|_| "ends early")?;
                self.stack.push(Value::Int(i64::from(i32::from_le_bytes(bytes))));
            }
            0x8a => {
                let length = self.length(1)?;
                self.push_int(length)?;
            }
            b'X' => self.push_text(4)?,
            0x8c => self.push_text(1)?,
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.push_name(name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.push_name(format!("{module}.{name}"))?,
                _ => return Err("names something other than text".to_owned()),
            },
            b')' => self.push_tuple(0)?,
            0x85..=0x87 => self.push_tuple(usize::from(code - 0x84))?,
            b't' => {
                let count = self.above_mark()?;
                self.push_tuple(count)?;
            }
            b'}' => self.push_dict(),
            b's' => self.set_items(2)?,
            b'u' => {
                let count = self.above_mark()?;
                self.set_items(count)?;
            }
            b'q' => self.memorise(1)?,
            b'r' => self.memorise(4)?,
            0x94 => {
                let key = self.memo.len() as u32;
                self.memo.insert(key, self.top()?.clone());
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'Q' => {
                let id = self.pop_tuple()?;
                self.stack.push(storage(&self.tuples[id])?);
            }
            b'R' => self.call()?,
            // Attributes of a dictionary: versions of modules, which are of no interest.
            b'b' => {
                self.pop()?;
                if !matches!(self.top()?, Value::Dict(_)) {
                    return Err("sets attributes of something other than a dictionary".to_owned());
                }
            }
            other => {
                return Err(format!(
                    "has instruction {other:#04x}, which dictionaries of tensors do not need"
                ));
            }
        }
        Ok(true)
    }

    fn bytes(&mut self, count: usize) -> Result<&[u8], String> {
        let (bytes, rest) = self.program.split_at_checked(count).ok_or("ends early")?;
        self.program = rest;
        Ok(bytes)
    }

    /// Text up to a line's end.
    fn line(&mut self) -> Result<String, String> {
        let length = self.program.iter().position(|&byte| byte == b'\n').ok_or("ends early")?;
        let line = String::from_utf8_lossy(self.bytes(length)?).into_owned();
        self.bytes(1)?;
        Ok(line)
    }

    /// An unsigned number of some bytes.
    fn length(&mut self, bytes: usize) -> Result<usize, String> {
        let bytes = self.bytes(bytes)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    fn push_int(&mut self, bytes: usize) -> Result<(), String> {
        // Sizes and offsets, which are never negative, take at most eight bytes and one for the
        // sign.
        let bytes = self.bytes(bytes)?;
        let (low, high) = bytes.split_at(bytes.len().min(8));
        let number = low.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
        let number = i64::try_from(number).ok().filter(|_| high.iter().all(|&byte| byte == 0));
        self.stack.push(Value::Int(number.ok_or("has a number too large for a size")?));
        Ok(())
    }

    fn push_text(&mut self, length_bytes: usize) -> Result<(), String> {
        let length = self.length(length_bytes)?;
        let text = String::from_utf8_lossy(self.bytes(length)?).into();
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn push_name(&mut self, name: String) -> Result<(), String> {
        let storage = name.starts_with("torch.") && name.ends_with("Storage");
        if storage || [ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER].contains(&name.as_str()) {
            self.stack.push(Value::Name(name.into()));
            Ok(())
        } else {
            Err(format!("names {name}, which is not part of a tensor: nothing of it was run"))
        }
    }

    fn push_tuple(&mut self, count: usize) -> Result<(), String> {
        let start = self.stack.len().checked_sub(count).ok_or("takes from an empty stack")?;
        self.tuples.push(self.stack.split_off(start));
        self.stack.push(Value::Tuple(self.tuples.len() - 1));
        Ok(())
    }

    fn push_dict(&mut self) {
        self.dicts.push(Vec::new());
        self.stack.push(Value::Dict(self.dicts.len() - 1));
    }

    /// How many values stand above the last mark, which is removed.
    fn above_mark(&mut self) -> Result<usize, String> {
        let mark = self.marks.pop().ok_or("goes back to a mark that is not there")?;
        self.stack.len().checked_sub(mark).ok_or_else(|| "took from below a mark".to_owned())
    }

    fn set_items(&mut self, count: usize) -> Result<(), String> {
        let start = self.stack.len().checked_sub(count).ok_or("takes from an empty stack")?;
        let mut items = self.stack.split_off(start).into_iter();
        let Value::Dict(index) = *self.top()? else {
            return Err("sets items of something other than a dictionary".to_owned());
        };
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            self.dicts[index].push((key, value));
        }
        Ok(())
    }

    fn memorise(&mut self, bytes: usize) -> Result<(), String> {
        let key = self.length(bytes)? as u32;
        self.memo.insert(key, self.top()?.clone());
        Ok(())
    }

    fn recall(&mut self, bytes: usize) -> Result<(), String> {
        let key = self.length(bytes)? as u32;
        let value = self.memo.get(&key).ok_or("recalls what was not memorised")?.clone();
        self.stack.push(value);
        Ok(())
    }

    fn top(&self) -> Result<&Value, String> {
        self.stack.last().ok_or_else(|| "takes from an empty stack".to_owned())
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "takes from an empty stack".to_owned())
    }

    /// Index of the tuple on top.
    fn pop_tuple(&mut self) -> Result<usize, String> {
        match self.pop()? {
            Value::Tuple(index) => Ok(index),
            _ => Err("has something other than a tuple as arguments".to_owned()),
        }
    }

    fn call(&mut self) -> Result<(), String> {
        let arguments = self.pop_tuple()?;
        let Value::Name(name) = self.pop()? else {
            return Err("calls something that is not a function".to_owned());
        };
        match (&*name, self.tuples[arguments].as_slice()) {
            (ORDERED_DICT, []) => self.push_dict(),
            (REBUILD_PARAMETER, [tensor @ Value::Tensor(_), ..]) => self.stack.push(tensor.clone()),
            (
                REBUILD_TENSOR,
                [
                    Value::Storage { kind, key },
                    Value::Int(offset),
                    Value::Tuple(shape),
                    Value::Tuple(strides),
                    ..,
                ],
            ) => {
                let tensor = StoredTensor {
                    kind: kind.to_string(),
                    record: key.to_string(),
                    offset: *offset,
                    shape: self.sizes(*shape)?,
                    strides: self.sizes(*strides)?,
                };
                self.stack.push(Value::Tensor(tensor.into()));
            }
            _ => return Err(format!("calls {name} with other arguments than torch.save does")),
        }
        Ok(())
    }

    fn sizes(&self, tuple: usize) -> Result<Vec<i64>, String> {
        let sizes = self.tuples[tuple].iter().map(|size| match size {
            Value::Int(size) => Ok(*size),
            _ => Err("has a size that is not a number".to_owned()),
        });
        sizes.collect()
    }
}

/// `("storage", type, record, device, elements)`.
fn storage(id: &[Value]) -> Result<Value, String> {
    match id {
        [Value::Text(tag), Value::Name(kind), Value::Text(key), ..] if **tag == *"storage" => {
            Ok(Value::Storage { kind: kind.clone(), key: key.clone() })
        }
        _ => Err("refers to something other than a storage".to_owned()),
    }
}

/// What Python's `pickletools` calls an instruction.
fn instruction(code: u8) -> &'static str {
    match code {
        b'(' => "MARK",
        b'.' => "STOP",
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'J' => "BININT",
        b'K' => "BININT1",
        b'L' => "LONG",
        b'M' => "BININT2",
        b'N' => "NONE",
        b'P' => "PERSID",
        b'Q' => "BINPERSID",
        b'R' => "REDUCE",
        b'S' => "STRING",
        b'T' => "BINSTRING",
        b'U' => "SHORT_BINSTRING",
        b'V' => "UNICODE",
        b'X' => "BINUNICODE",
        b'a' => "APPEND",
        b'b' => "BUILD",
        b'c' => "GLOBAL",
        b'd' => "DICT",
        b'}' => "EMPTY_DICT",
        b'e' => "APPENDS",
        b'g' => "GET",
        b'h' => "BINGET",
        b'i' => "INST",
        b'j' => "LONG_BINGET",
        b'l' => "LIST",
        b']' => "EMPTY_LIST",
        b'o' => "OBJ",
        b'p' => "PUT",
        b'q' => "BINPUT",
        b'r' => "LONG_BINPUT",
        b's' => "SETITEM",
        b't' => "TUPLE",
        b')' => "EMPTY_TUPLE",
        b'u' => "SETITEMS",
        b'G' => "BINFLOAT",
        b'B' => "BINBYTES",
        b'C' => "SHORT_BINBYTES",
        0x80 => "PROTO",
        0x81 => "NEWOBJ",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x85 => "TUPLE1",
        0x86 => "TUPLE2",
        0x87 => "TUPLE3",
        0x88 => "NEWTRUE",
        0x89 => "NEWFALSE",
        0x8a => "LONG1",
        0x8b => "LONG4",
        0x8c => "SHORT_BINUNICODE",
        0x8d => "BINUNICODE8",
        0x8e => "BINBYTES8",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x92 => "NEWOBJ_EX",
        0x93 => "STACK_GLOBAL",
        0x94 => "MEMOIZE",
        0x95 => "FRAME",
        0x96 => "BYTEARRAY8",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => "no instruction",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_name_of_a_function_is_an_error_wherever_it_stands() {
        // Protocol 0 to 4 spell names in two ways.
        for program in [&b"cposix\nsystem\n."[..], b"\x80\x04\x8c\x05posix\x8c\x06system\x93."] {
            assert!(tensors(program).expect_err("refused").starts_with("names posix.system"));
        }
    }

    #[test]
    fn errors_say_which_instruction_it_was_and_where() {
        let refused = |program: &[u8]| tensors(program).expect_err("refused");
        let call = refused(b"\x80\x02cposix\nsystem\nX\x02\0\0\0ls\x85R.");
        assert!(call.ends_with("nothing of it was run (GLOBAL at byte 2)"), "{call}");
        assert!(refused(b"\x80\x02iposix\nsystem\n.").ends_with("do not need (INST at byte 2)"));
        assert!(refused(b"\x80\x02}\x81.").ends_with("(NEWOBJ at byte 3)"));
        assert!(refused(b"\x80\x02}\xfe.").ends_with("(no instruction at byte 3)"));
        assert_eq!(refused(b"\x80\x02}"), "ends early");
        assert_eq!(refused(b"\x80\x02}X\xff\0\0\0ab"), "ends early (BINUNICODE at byte 3)");
    }

    #[test]
    fn a_short_program_makes_no_large_structure() {
        // A text of a megabyte, recalled a million times, would be a terabyte.
        let length = 1u32 << 20;
        let text = [b"X".as_slice(), &length.to_le_bytes(), &vec![b'a'; length as usize], b"q\0"].concat();
        let program = [b"\x80\x02}(".as_slice(), &text, &b"h\0".repeat(1 << 20), b"u."].concat();
        assert!(tensors(&program).expect_err("refused").ends_with("is not a tensor"));
    }

    proptest! {
        #[test]
        fn no_program_makes_the_machine_panic(program in prop::collection::vec(
            prop_oneof![prop::sample::select(b"\x80.(N\x88K\x8cX)\x85\x86\x87t}suqhQRbc\n".to_vec()), any::<u8>()], 0..60,
        )) {
            let _ = tensors(&program);
        }
    }
}
