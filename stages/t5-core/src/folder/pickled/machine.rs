//! A pickle, read without running anything: the part of the pickle machine that a checkpoint of torch needs.
//!
//! A pickle is a program that may call any function of Python. Here the only functions are those that put a tensor
//! together, and they only write down where its values lie; any other name is an error. Values refer to each other by
//! number, so nothing is nested and a small file cannot stand for a large value.

use std::collections::HashMap;

use safetensors::Dtype;

/// Why a pickle is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is damaged, or none.
    Damaged(String),
    /// It is sound, and holds what is not read.
    Refused(String),
    /// An entry of its archive, this, was packed again.
    Compressed(String),
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

/// More dimensions than any weight has.
const MOST_DIMENSIONS: usize = 8;

/// A value; containers, storages and tensors are numbers of those that the machine keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// More than 64 bits, in little-endian bytes.
    Long(&'a [u8]),
    Float,
    Text(&'a str),
    Bytes,
    Tuple(usize),
    List(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
}

impl Value<'_> {
    /// What it is, for messages.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Long(_) | Self::Float => "a number",
            Self::Text(_) => "a text",
            Self::Bytes => "bytes",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a class",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}

/// The names that a pickle may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    Tensor,
    TensorV2,
    Parameter,
    ParameterWithState,
    Storage(Dtype),
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Self> {
        let dtype = match (module, name) {
            ("collections", "OrderedDict") => return Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor") => return Some(Self::Tensor),
            ("torch._utils", "_rebuild_tensor_v2") => return Some(Self::TensorV2),
            ("torch._utils", "_rebuild_parameter") => return Some(Self::Parameter),
            ("torch._utils", "_rebuild_parameter_with_state") => {
                return Some(Self::ParameterWithState);
            }
            ("torch" | "torch.cuda", "FloatStorage") => Dtype::F32,
            ("torch" | "torch.cuda", "HalfStorage") => Dtype::F16,
            ("torch" | "torch.cuda", "BFloat16Storage") => Dtype::BF16,
            ("torch" | "torch.cuda", "DoubleStorage") => Dtype::F64,
            ("torch" | "torch.cuda", "LongStorage") => Dtype::I64,
            ("torch" | "torch.cuda", "IntStorage") => Dtype::I32,
            ("torch" | "torch.cuda", "ShortStorage") => Dtype::I16,
            ("torch" | "torch.cuda", "CharStorage") => Dtype::I8,
            ("torch" | "torch.cuda", "ByteStorage") => Dtype::U8,
            ("torch" | "torch.cuda", "BoolStorage") => Dtype::BOOL,
            _ => return None,
        };
        Some(Self::Storage(dtype))
    }
}

/// Values in a row, which tensors are views of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Storage<'a> {
    /// What the file calls it.
    pub(super) key: &'a str,
    pub(super) dtype: Dtype,
    pub(super) elements: usize,
}

/// A view of a storage; all in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    /// The number of its storage.
    pub(super) storage: usize,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// The machine, with all that the pickles in its bytes have made so far.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    tuples: Vec<Vec<Value<'a>>>,
    lists: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<Storage<'a>>,
    tensors: Vec<Tensor>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            tuples: Vec::new(),
            lists: Vec::new(),
            dicts: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn list(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::List(number) => self.lists.get(number).map(Vec::as_slice),
            _ => None,
        }
    }

    pub(super) fn dict(&self, value: Value<'a>) -> Option<&[(Value<'a>, Value<'a>)]> {
        match value {
            Value::Dict(number) => self.dicts.get(number).map(Vec::as_slice),
            _ => None,
        }
    }

    /// A tensor and the storage that it is a view of.
    pub(super) fn tensor(&self, value: Value<'a>) -> Option<(&Tensor, Storage<'a>)> {
        let Value::Tensor(number) = value else { return None };
        let tensor = self.tensors.get(number)?;
        Some((tensor, *self.storages.get(tensor.storage)?))
    }

    /// All storages by what the file calls them.
    pub(super) fn storages(&self) -> HashMap<&'a str, Storage<'a>> {
        self.storages.iter().map(|storage| (storage.key, *storage)).collect()
    }

    /// Reads the next pickle.
    pub(super) fn load(&mut self) -> Result<Value<'a>> {
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        loop {
            let start = self.at;
            match self.step() {
                Ok(None) => {}
                Ok(Some(value)) => return Ok(value),
                Err(Fault::Damaged(what)) => {
                    return Err(Fault::Damaged(format!("{what}, at byte {start} of the pickle")));
                }
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Does one instruction; the last gives the value.
    fn step(&mut self) -> Result<Option<Value<'a>>> {
        let opcode = self.byte()?;
        let value = match opcode {
            b'.' => return self.pop().map(Some),
            // PROTO and FRAME say nothing that is needed.
            0x80 => return self.take(1).map(|_| None),
            0x95 => return self.take(8).map(|_| None),
            b'(' => {
                self.marks.push(self.stack.len());
                return Ok(None);
            }
            b'0' => return self.pop().map(|_| None),
            b'q' => {
                let name = u32::from(self.byte()?);
                return self.memorize(name);
            }
            b'r' => {
                let name = self.u32()?;
                return self.memorize(name);
            }
            0x94 => return self.memorize(u32::try_from(self.memo.len()).map_err(|_| cut())?),
            b'h' => {
                let name = u32::from(self.byte()?);
                self.recall(name)?
            }
            b'j' => {
                let name = self.u32()?;
                self.recall(name)?
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                return self.set_items(vec![key, value]);
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                return self.set_items(items);
            }
            b'a' => {
                let item = self.pop()?;
                return self.append(vec![item]);
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                return self.append(items);
            }
            b'b' => return self.build(),
            _ => self.value(opcode)?,
        };
        self.stack.push(value);
        Ok(None)
    }

    /// What an instruction pushes.
    fn value(&mut self, opcode: u8) -> Result<Value<'a>> {
        Ok(match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'K' => Value::Int(self.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            0x8a => {
                let length = self.byte()?;
                self.long(length.into())?
            }
            0x8b => {
                let length = self.u32()? as usize;
                self.long(length)?
            }
            b'G' => self.take(8).map(|_| Value::Float)?,
            b'X' | b'T' => {
                let length = self.u32()? as usize;
                self.text(length)?
            }
            0x8c | b'U' => {
                let length = self.byte()?.into();
                self.text(length)?
            }
            0x8d => {
                let length = self.u64()?;
                self.text(length)?
            }
            b'C' => {
                let length = self.byte()?.into();
                self.take(length).map(|_| Value::Bytes)?
            }
            b'B' => {
                let length = self.u32()? as usize;
                self.take(length).map(|_| Value::Bytes)?
            }
            b'}' => {
                self.dicts.push(Vec::new());
                Value::Dict(self.dicts.len() - 1)
            }
            b']' => {
                self.lists.push(Vec::new());
                Value::List(self.lists.len() - 1)
            }
            b')' => self.tuple(Vec::new()),
            b't' => {
                let items = self.pop_to_mark()?;
                self.tuple(items)
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.tuple(items)
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                global(module, name)?
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => global(module, name)?,
                _ => return Err(damaged("a name is no text")),
            },
            b'Q' => {
                let id = self.pop()?;
                self.storage(id)?
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?
            }
            other => {
                let name = match other {
                    b'i' | b'o' | 0x81 | 0x92 => "it makes an object of a class",
                    0x82..=0x84 => "it uses the registry of extensions",
                    b'P' => "its storages are named by texts",
                    _ => {
                        return Err(damaged(format!(
                            "0x{other:02x} is no instruction of a checkpoint"
                        )));
                    }
                };
                return Err(Fault::Refused(name.into()));
            }
        })
    }

    fn tuple(&mut self, items: Vec<Value<'a>>) -> Value<'a> {
        self.tuples.push(items);
        Value::Tuple(self.tuples.len() - 1)
    }

    fn memorize(&mut self, name: u32) -> Result<Option<Value<'a>>> {
        let value = *self.stack.last().ok_or_else(|| damaged("there is nothing to remember"))?;
        self.memo.insert(name, value);
        Ok(None)
    }

    fn recall(&self, name: u32) -> Result<Value<'a>> {
        self.memo
            .get(&name)
            .copied()
            .ok_or_else(|| damaged(format!("nothing is remembered as {name}")))
    }

    fn set_items(&mut self, items: Vec<Value<'a>>) -> Result<Option<Value<'a>>> {
        let (pairs, rest) = items.as_chunks::<2>();
        match self.stack.last() {
            Some(&Value::Dict(number)) if rest.is_empty() => {
                self.dicts[number].extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(None)
            }
            _ => Err(damaged("items are set where there is no dictionary")),
        }
    }

    fn append(&mut self, items: Vec<Value<'a>>) -> Result<Option<Value<'a>>> {
        match self.stack.last() {
            Some(&Value::List(number)) => {
                self.lists[number].extend(items);
                Ok(None)
            }
            _ => Err(damaged("items are appended where there is no list")),
        }
    }

    /// Attributes: those of a state dictionary (`_metadata`) say nothing about weights.
    fn build(&mut self) -> Result<Option<Value<'a>>> {
        self.pop()?;
        match self.stack.last() {
            Some(Value::Dict(_)) => Ok(None),
            Some(other) => Err(Fault::Refused(format!("it sets attributes of {}", other.kind()))),
            None => Err(damaged("there is nothing to set attributes of")),
        }
    }

    /// `('storage', TYPE, KEY, DEVICE, ELEMENTS)`, with a view of it behind in the old format.
    fn storage(&mut self, id: Value<'a>) -> Result<Value<'a>> {
        let storage = match self.items(id) {
            Some(
                &[
                    Value::Text("storage"),
                    Value::Global(Global::Storage(dtype)),
                    Value::Text(key),
                    Value::Text(_device),
                    Value::Int(elements),
                    ref view @ ..,
                ],
            ) if matches!(view, [] | [Value::None]) => {
                Storage { key, dtype, elements: size(elements)? }
            }
            Some(&[Value::Text("module"), ..]) => {
                return Err(Fault::Refused("it holds a whole module, not only weights".into()));
            }
            _ => return Err(Fault::Refused("it has a storage of an unknown kind".into())),
        };
        self.storages.push(storage);
        Ok(Value::Storage(self.storages.len() - 1))
    }

    fn call(&mut self, function: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>> {
        let Value::Global(function) = function else {
            return Err(damaged(format!("{} is called", function.kind())));
        };
        let wrong = || damaged("a tensor has other parts than torch gives it");
        let arguments = self.items(arguments).ok_or_else(wrong)?;
        match (function, arguments) {
            (Global::OrderedDict, []) => {
                self.dicts.push(Vec::new());
                Ok(Value::Dict(self.dicts.len() - 1))
            }
            (Global::OrderedDict, &[pairs]) => self.ordered(pairs),
            (Global::TensorV2, &[storage, offset, shape, strides, _, _, ref rest @ ..]) => {
                let plain = match rest {
                    [] => true,
                    &[metadata] => self.dict(metadata).is_some_and(<[_]>::is_empty),
                    _ => false,
                };
                if !plain {
                    return Err(Fault::Refused(
                        "it has a tensor that is a conjugated or negated view".into(),
                    ));
                }
                self.view(storage, offset, shape, strides)
            }
            (Global::Tensor, &[storage, offset, shape, strides]) => {
                self.view(storage, offset, shape, strides)
            }
            (Global::Parameter, &[tensor @ Value::Tensor(_), _, _])
            | (Global::ParameterWithState, &[tensor @ Value::Tensor(_), _, _, _]) => Ok(tensor),
            _ => Err(wrong()),
        }
    }

    fn ordered(&mut self, pairs: Value<'a>) -> Result<Value<'a>> {
        let wrong = || damaged("an ordered dictionary is not made of pairs");
        let pairs = self.list(pairs).ok_or_else(wrong)?;
        let pair = |&pair: &Value<'a>| match self.items(pair).or_else(|| self.list(pair)) {
            Some(&[key, value]) => Ok((key, value)),
            _ => Err(wrong()),
        };
        let pairs = pairs.iter().map(pair).collect::<Result<Vec<_>>>()?;
        self.dicts.push(pairs);
        Ok(Value::Dict(self.dicts.len() - 1))
    }

    fn view(
        &mut self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
    ) -> Result<Value<'a>> {
        let (Value::Storage(storage), Value::Int(offset)) = (storage, offset) else {
            return Err(damaged("a tensor has no storage or no offset"));
        };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err(damaged("a tensor has not a stride for each dimension"));
        }
        self.tensors.push(Tensor { storage, offset: size(offset)?, shape, strides });
        Ok(Value::Tensor(self.tensors.len() - 1))
    }

    fn sizes(&self, value: Value<'a>) -> Result<Vec<usize>> {
        let sizes = self.items(value).filter(|sizes| sizes.len() <= MOST_DIMENSIONS);
        let sizes = sizes
            .ok_or_else(|| damaged("a tensor has no shape, or more dimensions than a weight"))?;
        let whole = |value: &Value<'a>| match value {
            Value::Int(number) => size(*number),
            _ => Err(damaged("a size is no number")),
        };
        sizes.iter().map(whole).collect()
    }

    fn items(&self, value: Value<'a>) -> Option<&[Value<'a>]> {
        match value {
            Value::Tuple(number) => self.tuples.get(number).map(Vec::as_slice),
            _ => None,
        }
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= bottom {
            return Err(damaged("a value is missing"));
        }
        self.stack.pop().ok_or_else(cut)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value<'a>>> {
        let mut items: Vec<_> = (0..count).map(|_| self.pop()).collect::<Result<_>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or_else(|| damaged("a mark is missing"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn byte(&mut self) -> Result<u8> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| cut())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let array = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk);
        self.at += N;
        array.copied().ok_or_else(cut)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).ok_or_else(cut)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(cut)?;
        self.at = end;
        Ok(taken)
    }

    fn text(&mut self, length: usize) -> Result<Value<'a>> {
        let text = std::str::from_utf8(self.take(length)?);
        text.map(Value::Text).map_err(|_| damaged("a text is not UTF-8"))
    }

    fn long(&mut self, length: usize) -> Result<Value<'a>> {
        let bytes = self.take(length)?;
        let Some(&last) = bytes.last() else { return Ok(Value::Int(0)) };
        if length > 8 {
            return Ok(Value::Long(bytes));
        }
        let mut wide = [if last & 0x80 == 0 { 0 } else { 0xff }; 8];
        wide[..length].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = self.bytes.get(self.at..).ok_or_else(cut)?;
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or_else(cut)?;
        let line = self.take(length)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| damaged("a name is not UTF-8"))
    }
}

fn global<'a>(module: &str, name: &str) -> Result<Value<'a>> {
    let global = Global::find(module, name).map(Value::Global);
    global.ok_or_else(|| {
        let shown =
            |text: &str| text.chars().take(80).collect::<String>().escape_debug().to_string();
        Fault::Refused(format!(
            "it refers to `{}.{}`, which is no part of a tensor (nothing of it was run)",
            shown(module),
            shown(name)
        ))
    })
}

fn size(number: i64) -> Result<usize> {
    usize::try_from(number).map_err(|_| damaged(format!("a size is {number}")))
}

fn cut() -> Fault {
    damaged("it is cut short")
}

fn damaged(what: impl Into<String>) -> Fault {
    Fault::Damaged(what.into())
}

#[cfg(test)]
mod tests;
