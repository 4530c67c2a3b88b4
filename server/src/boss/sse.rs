//! Decodes server-sent events, however the network cuts them. Knows nothing of what they say.

/// One event: its `id:` and its `data:`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Event {
    pub(crate) id: Option<u64>,
    pub(crate) data: Vec<u8>,
}

/// More than this in one event is no event of ours: a worker's longest line is a tenth of it.
const LONGEST: usize = 1024 * 1024;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server-sent event of more than {LONGEST} bytes")]
pub(crate) struct TooLong;

#[derive(Default)]
pub(crate) struct Decoder {
    /// Bytes of a line that has not ended yet.
    line: Vec<u8>,
    event: Event,
    some_data: bool,
}

impl Decoder {
    /// Takes the next bytes in, and hands out every event that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut out: impl FnMut(Event)) -> Result<(), TooLong> {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (piece, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            if self.line.is_empty() {
                self.take_line(piece, &mut out);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(piece);
                self.take_line(&line, &mut out);
                line.clear();
                self.line = line;
            }
            if self.event.data.len() > LONGEST {
                return Err(TooLong);
            }
        }
        if self.line.len() + rest.len() > LONGEST {
            return Err(TooLong);
        }
        self.line.extend_from_slice(rest);
        Ok(())
    }

    fn take_line(&mut self, line: &[u8], out: &mut impl FnMut(Event)) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if std::mem::take(&mut self.some_data) {
                out(event);
            }
            return;
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"data" => {
                if std::mem::replace(&mut self.some_data, true) {
                    self.event.data.push(b'\n');
                }
                self.event.data.extend_from_slice(value);
            }
            b"id" => self.event.id = std::str::from_utf8(value).ok().and_then(|id| id.parse().ok()),
            // Comments begin with the colon; other fields are not for us.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]]) -> Vec<Event> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        for piece in pieces {
            decoder.feed(piece, |event| events.push(event)).unwrap();
        }
        events
    }

    const WIRE: &[u8] =
        b": alive\n\nid: 12\ndata: {\"a\":1}\n\n:\n\nevent: x\r\ndata:one\r\ndata: two\r\nid: 40\r\n\r\nid: 50\n\n";

    #[test]
    fn events_are_told_from_comments() {
        let first = Event { id: Some(12), data: b"{\"a\":1}".to_vec() };
        let second = Event { id: Some(40), data: b"one\ntwo".to_vec() };
        assert_eq!(decode(&[WIRE]), [first, second]);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut decoder = Decoder::default();
        let piece = vec![b'x'; 128 * 1024];
        let fed = (0..9).map(|_| decoder.feed(&piece, |_| ())).collect::<Vec<_>>();
        assert_eq!(fed.last(), Some(&Err(TooLong)));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(WIRE.len())).collect();
            at.extend([0, WIRE.len()]);
            at.sort_unstable();
            let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &WIRE[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&pieces), decode(&[WIRE]));
        }

        #[test]
        fn noise_does_no_harm(noise in prop::collection::vec(any::<u8>(), 0..2000)) {
            decode(&[&noise]);
        }
    }
}
