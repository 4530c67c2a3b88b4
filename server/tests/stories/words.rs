//! What the command line says of itself: help, manual, completions, version.

use std::process::{Command, Output, Stdio};

use crate::ci::BINARY;
use crate::command::{err, out, refused};

const COMMANDS: &[&str] =
    &["init", "run", "rerun", "show", "open", "doctor", "backup", "restore", "completions", "man"];

fn said(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(args: &[&str]) -> String {
    let ended = said(args);
    assert_eq!(ended.status.code(), Some(0), "{args:?}: {}", err(&ended));
    out(&ended)
}

#[test]
fn each_command_has_help_with_examples_and_a_manual_page() {
    assert_eq!(text(&["--version"]).trim(), format!("bettertest {}", env!("CARGO_PKG_VERSION")));
    let all = text(&["--help"]);
    let page = text(&["man"]);
    assert!(page.contains(".TH bettertest 1"), "{page}");
    for command in COMMANDS {
        assert!(all.contains(&format!("\n  {command} ")), "{command} in {all}");
        let help = text(&[command, "--help"]);
        // An example begins with what is typed.
        assert!(help.contains("Examples:\n  ") && help.contains(&format!("bettertest {command}")), "{help}");
        assert!(!text(&[command, "-h"]).contains("Examples:"), "the short help is short");
        let page = text(&["man", command]);
        assert!(page.contains(&format!(".TH bettertest-{command} 1")), "{page}");
        for flag in
            help.lines().filter_map(|line| line.trim().split([' ', ',']).find(|word| word.starts_with("--")))
        {
            // As roff has it.
            assert!(page.contains(&flag.replace('-', r"\-")), "{flag} in {page}");
        }
    }
    refused(&said(&["man", "ghost"]), "ghost");
}

/// The script is asked as bash asks it: what may follow these words?
#[test]
fn a_shell_completes_commands_and_flags() {
    let script = text(&["completions", "bash"]);
    let completed = |words: &str, last: usize| {
        let ask = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={last}\n\
             _bettertest bettertest \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{}]}}\"\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
            last - 1
        );
        let asked = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
        out(&asked)
    };
    assert_eq!(completed("bettertest doc", 1).trim(), "doctor");
    assert_eq!(completed("bettertest doctor --j", 2).trim(), "--json");
    assert!(completed("bettertest run --color ''", 3).contains("always"));
    for shell in ["zsh", "fish"] {
        let script = text(&["completions", shell]);
        assert!(script.contains("doctor") && script.contains("docker-host"), "{shell}: {script}");
    }
    refused(&said(&["completions", "ghost"]), "ghost");
}

#[test]
fn a_public_url_is_an_origin() {
    for wrong in ["ci.example.com", "ftp://ci.example.com", "http://ci.example.com/page", "http://"] {
        refused(&said(&["--boss", "--pipedef", "x.py", "--public-url", wrong]), "http://ci.example.com:9001");
    }
}
