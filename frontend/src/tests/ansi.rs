//! What programs print, as lines.

use proptest::prelude::*;

use crate::ansi::{Ansi, Colour, Line, Style};

fn lines_of<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<Line> {
    let mut ansi = Ansi::default();
    let mut lines = Vec::new();
    for chunk in chunks {
        ansi.feed(chunk, |line| lines.push(line));
    }
    ansi.finish();
    lines.push(ansi.unfinished().clone());
    lines
}

fn lines(output: &[u8]) -> Vec<Line> {
    lines_of([output])
}

fn text(output: &[u8]) -> String {
    lines(output).iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
}

fn styled(output: &str) -> Vec<(String, Style)> {
    let lines = lines(output.as_bytes());
    let pieces = lines[0].pieces().filter(|(piece, _)| !piece.is_empty());
    pieces.map(|(piece, style)| (piece.to_owned(), style)).collect()
}

fn ink(ink: Colour) -> Style {
    Style { ink, ..Style::default() }
}

#[test]
fn lines_know_where_they_begin() {
    let lines = lines("one\n\nthré\nlast".as_bytes());
    let offsets: Vec<_> = lines.iter().map(|line| (line.offset, line.text.as_str())).collect();
    assert_eq!(offsets, [(0, "one"), (4, ""), (5, "thré"), (11, "last")]);
}

#[test]
fn colours_and_weights_are_kept() {
    let plain = Style::default();
    let piece = |text: &str, style| (text.to_owned(), style);
    assert_eq!(
        styled("a\x1b[31mred\x1b[0m b"),
        [piece("a", plain), piece("red", ink(Colour::Named(1))), piece(" b", plain)]
    );
    assert_eq!(
        styled("\x1b[1;4;7mx\x1b[22;24;27my"),
        [piece("x", Style { bold: true, underline: true, reverse: true, ..plain }), piece("y", plain)]
    );
    assert_eq!(styled("\x1b[38;5;196mx"), [piece("x", ink(Colour::Rgb(255, 0, 0)))]);
    assert_eq!(styled("\x1b[38;5;9mx"), [piece("x", ink(Colour::Named(9)))]);
    assert_eq!(
        styled("\x1b[38;2;1;2;3;1mx"),
        [piece("x", Style { bold: true, ..ink(Colour::Rgb(1, 2, 3)) })]
    );
    assert_eq!(styled("\x1b[38:2::1:2:3mx"), [piece("x", ink(Colour::Rgb(1, 2, 3)))]);
    assert_eq!(styled("\x1b[38:2:1:2:3mx"), [piece("x", ink(Colour::Rgb(1, 2, 3)))]);
    assert_eq!(
        styled("\x1b[97;101mx"),
        [piece("x", Style { paper: Colour::Named(9), ..ink(Colour::Named(15)) })]
    );
    assert_eq!(
        styled("\x1b[4:3mx\x1b[4:0my"),
        [piece("x", Style { underline: true, ..plain }), piece("y", plain)]
    );
    assert_eq!(styled("\x1b[31mx\x1b[my"), [piece("x", ink(Colour::Named(1))), piece("y", plain)]);
    // A colour goes on over the end of the line.
    assert_eq!(lines(b"\x1b[31ma\nb")[1].pieces().next(), Some(("b", ink(Colour::Named(1)))));
}

#[test]
fn every_other_sequence_is_dropped() {
    for (printed, shown) in [
        ("\x1b[2J\x1b[10;10Hx\x1b[K", "x"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r0m\x1b\\x\x1b^pm\x1b\\\x1b_apc\x1b\\y", "xy"),
        ("\x1b(B\x1b=x\x1b7", "x"),
        ("\x1b[?25lx\x1b[>4;1my", "xy"),
        ("a\x00\x01\x07\x7fb\tc", "ab\tc"),
        // Of eight bits, as bytes and as characters; and what turns text around.
        ("\u{9b}31mx\u{9d}0;t\u{9c}y\u{85}z\u{90}", "31mx0;tyz"),
        ("a\u{202e}b\u{2066}c\u{200f}d\u{2028}e", "abcd\u{2028}e"),
        // What never ends hides no more than its own line.
        ("\x1b]0;title\nx", "\nx"),
        ("\x1b[31\nx", "\nx"),
        ("\x1b", ""),
        ("\x1b[31é", "é"),
    ] {
        assert_eq!(text(printed.as_bytes()), shown, "{printed:?}");
    }
}

#[test]
fn of_a_redrawn_line_the_last_state_stays() {
    assert_eq!(text(b" 1%\r50%\r100%\ndone"), "100%\ndone");
    assert_eq!(text(b"windows\r\nlines\r\r\n"), "windows\nlines\n");
    assert_eq!(text(b"kept\r"), "kept");
    assert_eq!(text(b"|\x08/\x08-\x08\x08\x08ok"), "ok");
}

#[test]
fn invalid_utf_8_shows() {
    assert_eq!(text(b"a\xff\xfeb\xc3(\xe2\x82"), "a\u{FFFD}\u{FFFD}b\u{FFFD}(\u{FFFD}");
    assert_eq!(text(b"\xe2\x82\n\xac"), "\u{FFFD}\n\u{FFFD}");
}

#[test]
fn bytes_of_eight_bit_controls_are_no_controls() {
    assert_eq!(text(b"a\x9b31mb\x9d0;t\x9cc"), "a\u{FFFD}31mb\u{FFFD}0;t\u{FFFD}c");
}

#[test]
fn a_line_without_end_is_cut_and_counted() {
    let long = vec![b'x'; 3 * 1024 * 1024];
    let line = lines(&long).remove(0);
    assert_eq!((line.text.len(), line.left_out_bytes), (1024 * 1024, 2 * 1024 * 1024));
}

fn output() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => "[a-z é日🎉]{0,6}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..4),
        2 => "\x1b\\[[0-9;:]{0,8}m".prop_map(String::into_bytes),
        1 => "[\u{80}-\u{9f}\u{202a}-\u{202e}\u{2066}-\u{2069}]".prop_map(String::into_bytes),
        1 => prop::sample::select(vec!["\n", "\r", "\r\n", "\x08", "\x1b", "\x1b[", "\x1b]0;t", "\x07", "\x1b\\", "\x1b(B"])
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop::collection::vec(part, 0..30).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn chunks_do_not_matter(output in output(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(output.len() + 1)).collect();
        cuts.extend([0, output.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|pair| &output[pair[0]..pair[1]]);
        prop_assert_eq!(lines_of(chunks), lines(&output));
    }

    #[test]
    fn byte_by_byte_is_the_same(output in output()) {
        prop_assert_eq!(lines_of(output.chunks(1)), lines(&output));
    }

    #[test]
    fn nothing_is_left_that_anything_obeys(output in output()) {
        for line in lines(&output) {
            let obeyed = |c: char| {
                c.is_control() && c != '\t' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            prop_assert!(!line.text.contains(obeyed), "{:?}", line.text);
        }
    }

    #[test]
    fn pieces_are_the_text(output in output()) {
        for line in lines(&output) {
            let joined: String = line.pieces().map(|(piece, _)| piece).collect();
            prop_assert_eq!(joined, line.text);
        }
    }
}
