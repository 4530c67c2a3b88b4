//! Reads archives entry by entry, with bounds on what is kept in memory.
//!
//! The `tar` crate knows the fields of a header; its reader is not used: it takes a newline in the value of a PAX
//! record for the record's end, which names and capabilities do have, and keeps long names of any length.

use rustix::fs::Timespec;
use std::io::{self, Read};
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::sparse::Map;
use super::{Trouble, broken, shown};

const BLOCK: u64 = 512;

/// What precedes an entry's data: long names and extended attributes. Go's reader takes as much.
const HEADS_BYTES: u64 = 1024 * 1024;

pub(super) struct Reader<R> {
    archive: R,
    /// Of the entry that was read last.
    left: u64,
    padding: u64,
}

pub(super) struct Entry {
    pub(super) kind: EntryType,
    /// As it stands in the archive: anything.
    pub(super) name: Vec<u8>,
    pub(super) target: Vec<u8>,
    /// Of its data in the archive.
    pub(super) size: u64,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) time: Timespec,
    /// Major and minor number.
    pub(super) device: (i64, i64),
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<Map>,
}

type Records = Vec<(Vec<u8>, Vec<u8>)>;

impl<R: Read> Reader<R> {
    pub(super) fn new(archive: R) -> Reader<R> {
        Reader { archive, left: 0, padding: 0 }
    }

    /// The next entry, whose data can be read from this reader then. None at the end, after all has been read.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Trouble> {
        let (mut name, mut target, mut records) = (None, None, Records::new());
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                io::copy(&mut self.archive, &mut io::sink()).map_err(broken)?;
                return Ok(None);
            };
            let old = header.as_old();
            let kind = header.entry_type();
            self.expect(number(&old.size).and_then(|size| u64::try_from(size).ok()), &header)?;
            match kind {
                EntryType::GNULongName => name = Some(until_zero(&self.small(&header)?).to_vec()),
                EntryType::GNULongLink => target = Some(until_zero(&self.small(&header)?).to_vec()),
                EntryType::XHeader => {
                    let text = self.small(&header)?;
                    records = parse(&text).ok_or_else(|| bad(&header, "its PAX records"))?;
                }
                EntryType::XGlobalHeader => {}
                _ => return self.entry(&header, name, target, records).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        name: Option<Vec<u8>>,
        target: Option<Vec<u8>>,
        records: Records,
    ) -> Result<Entry, Trouble> {
        let old = header.as_old();
        let field = |bytes: &[u8], what: &str| number(bytes).ok_or_else(|| bad(header, what));
        let devices = match (header.as_gnu(), header.as_ustar()) {
            (Some(gnu), _) => Some((&gnu.dev_major, &gnu.dev_minor)),
            (None, Some(ustar)) => Some((&ustar.dev_major, &ustar.dev_minor)),
            (None, None) => None,
        };
        let mut entry = Entry {
            kind: header.entry_type(),
            name: name.unwrap_or_else(|| header.path_bytes().into_owned()),
            target: target.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned()),
            size: self.left,
            mode: field(&old.mode, "its mode")?,
            uid: field(&old.uid, "its owner")?,
            gid: field(&old.gid, "its group")?,
            time: Timespec { tv_sec: field(&old.mtime, "its time")?, tv_nsec: 0 },
            device: match devices {
                Some((major, minor)) => (field(major, "its device")?, field(minor, "its device")?),
                None => (0, 0),
            },
            attributes: Vec::new(),
            sparse: None,
        };
        let mut map = Map::default();
        for (key, value) in records {
            let decimal = || std::str::from_utf8(&value).ok().and_then(|text| text.parse::<i64>().ok());
            let no_number = || bad(header, &shown(&key));
            match key.as_slice() {
                b"path" => entry.name = value,
                b"linkpath" => entry.target = value,
                b"uid" => entry.uid = decimal().ok_or_else(no_number)?,
                b"gid" => entry.gid = decimal().ok_or_else(no_number)?,
                b"mtime" => entry.time = time(&value).ok_or_else(no_number)?,
                b"size" => {
                    self.expect(decimal().and_then(|size| u64::try_from(size).ok()), header)?;
                    entry.size = self.left;
                }
                key => {
                    if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                        entry.attributes.push((attribute.to_vec(), value));
                    } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        map.note(key, &value).map_err(|why| bad(header, why))?;
                    }
                }
            }
        }
        if let Some(name) = map.name.take() {
            entry.name = name;
        }
        if entry.kind.is_gnu_sparse() {
            self.old_map(header, &mut map)?;
        }
        entry.sparse = map.is_any().then_some(map);
        Ok(entry)
    }

    /// The pieces of a file in GNU's old form stand in its header and in blocks behind it.
    fn old_map(&mut self, header: &Header, map: &mut Map) -> Result<(), Trouble> {
        let gnu = header.as_gnu().ok_or_else(|| bad(header, "its pieces"))?;
        map.set_size(&gnu.realsize, number).map_err(|why| bad(header, why))?;
        let mut add = |pieces: &[GnuSparseHeader]| {
            let mut pieces = pieces.iter().filter(|piece| !piece.is_empty());
            pieces.try_for_each(|piece| map.add_fields(&piece.offset, &piece.numbytes, number))
        };
        add(&gnu.sparse).map_err(|why| bad(header, why))?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = GnuExtSparseHeader::new();
            self.archive.read_exact(block.as_mut_bytes()).map_err(broken)?;
            add(block.sparse()).map_err(|why| bad(header, why))?;
            more = block.is_extended();
        }
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>, Trouble> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.archive.read(&mut block[filled..]).map_err(broken)? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(Trouble::Broken("it ends within a header".to_owned())),
                read => filled += read,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        match is_header(header.as_bytes()) {
            true => Ok(Some(header)),
            false => Err(bad(&header, "its checksum")),
        }
    }

    fn expect(&mut self, size: Option<u64>, header: &Header) -> Result<(), Trouble> {
        self.left = size.filter(|size| *size < u64::MAX - BLOCK).ok_or_else(|| bad(header, "its size"))?;
        self.padding = self.left.next_multiple_of(BLOCK) - self.left;
        Ok(())
    }

    fn small(&mut self, header: &Header) -> Result<Vec<u8>, Trouble> {
        if self.left > HEADS_BYTES {
            return Err(bad(header, "what precedes it, in its length"));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(broken)?;
        Ok(bytes)
    }

    /// To the next header.
    fn skip(&mut self) -> Result<(), Trouble> {
        let bytes = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        let skipped = io::copy(&mut self.archive.by_ref().take(bytes), &mut io::sink()).map_err(broken)?;
        if skipped < bytes {
            return Err(Trouble::Broken("it ends within an entry".to_owned()));
        }
        Ok(())
    }
}

/// The data of the entry that was read last.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = self.archive.read(&mut into[..most])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends within an entry"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Is this block the head of an entry?
pub(super) fn is_header(block: &[u8]) -> bool {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| i64::from(*byte)).sum::<i64>();
    let Some(told) = block.get(148..156).and_then(number) else { return false };
    told == sum(&block[..148]) + sum(&block[156..]) + 8 * 32
}

fn bad(header: &Header, what: &str) -> Trouble {
    Trouble::Refused { entry: shown(&header.path_bytes()), why: format!("{what} cannot be right") }
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number in a header: octal digits, or base 256 where the highest bit is set. An empty field is 0.
fn number(field: &[u8]) -> Option<i64> {
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            let is_negative = first & 0x40 != 0;
            let begin = i128::from(first & 0x3f) - if is_negative { 0x40 } else { 0 };
            let add = |sum: i128, byte: &u8| Some(sum.checked_mul(256)? + i128::from(*byte));
            i64::try_from(rest.iter().try_fold(begin, add)?).ok()
        }
        _ => {
            let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
            // What `from_str_radix` takes besides is a sign.
            match text.as_bytes() {
                [] => Some(0),
                [b'0'..=b'7', ..] => i64::from_str_radix(text, 8).ok(),
                _ => None,
            }
        }
    }
}

/// PAX records: `LENGTH KEY=VALUE\n`, where the length counts all of it and the value is any bytes.
fn parse(mut text: &[u8]) -> Option<Records> {
    let mut records = Records::new();
    while !text.is_empty() {
        let space = text.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
        let (record, rest) = (text.get(space + 1..length)?, &text[length..]);
        let record = record.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        text = rest;
    }
    Some(records)
}

/// Seconds with a fraction, before 1970 too.
fn time(text: &[u8]) -> Option<Timespec> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: i64 =
        digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some(if seconds.starts_with('-') && nanoseconds > 0 {
        Timespec { tv_sec: whole.checked_sub(1)?, tv_nsec: 1_000_000_000 - nanoseconds }
    } else {
        Timespec { tv_sec: whole, tv_nsec: nanoseconds }
    })
}

#[cfg(test)]
mod tests {
    use super::{number, parse};

    #[test]
    fn times_have_fractions_and_signs() {
        let time = |text: &str| super::time(text.as_bytes()).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(time("12"), Some((12, 0)));
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("-0.25"), Some((-1, 750_000_000)));
        assert_eq!(time("1.1234567899"), Some((1, 123_456_789)));
        for bad in ["", "x", "1.x", "1.-5", "99999999999999999999"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_are_octal_or_large() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  12 \0\0\0"), Some(0o12));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(&[0x80, 0, 0, 0, 0xb2, 0xd0, 0x5e, 0]), Some(3_000_000_000));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        let mut largest = [0xff; 12];
        largest[0] = 0xbf;
        for bad in [&b"9"[..], b"-1", b"+1", b"x", &largest] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn records_have_any_bytes() {
        let of = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
        let text = b"11 a=b\n\0=c\n6 k=v\n5 e=\n";
        assert_eq!(parse(text), Some(vec![of(b"a", b"b\n\0=c"), of(b"k", b"v"), of(b"e", b"")]));
        for bad in
            [&b"6 k=v"[..], b"7 k=v\n", b"99999999999999999999 k=v\n", b"1 k=v\n", b"0 ", b"x", b"4 kv\n"]
        {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
