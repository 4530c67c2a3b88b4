//! Snapshots of real folders, with the real git.

use common::{Manifest, Reason};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use super::{Source, SourceError, Wanted, snapshot};

struct Project {
    folder: tempfile::TempDir,
    /// Where its snapshots lie.
    stored: tempfile::TempDir,
}

impl Project {
    fn new() -> Project {
        let project = Project { folder: tempfile::tempdir().unwrap(), stored: tempfile::tempdir().unwrap() };
        project.write(".bettertest/pipedef.py", "# source_at\n");
        project
    }

    fn of_git() -> Project {
        let project = Project::new();
        project.git(".", &["init", "-q", "-b", "main"]);
        project
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Writes it again so that nothing but time tells: as many bytes, and the time of before.
    fn write_unseen(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        let before = path.metadata().unwrap().modified().unwrap();
        assert_eq!(path.metadata().unwrap().len(), text.len() as u64);
        std::fs::write(&path, text).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
    }

    fn git(&self, within: &str, words: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("-C").arg(self.path().join(within));
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]);
        let done = git.args(words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self) {
        self.git(".", &["add", "-A"]);
        self.git(".", &["commit", "-q", "-m", "all"]);
    }

    fn try_snapshot(&self) -> Result<Source, SourceError> {
        let into = tempfile::tempdir_in(self.stored.path()).unwrap().keep();
        let memory = self.stored.path().join("ids");
        snapshot(&self.path().join(".bettertest/pipedef.py"), &into, &memory)
    }

    fn snapshot(&self) -> Source {
        self.try_snapshot().unwrap()
    }
}

/// Its files: mode and bytes by path, as a worker would get them.
fn files_of(source: &Source) -> BTreeMap<String, (String, String)> {
    let bytes = source.manifest().unwrap();
    let manifest = Manifest::parse(&bytes).unwrap();
    assert_eq!(source.record.files, manifest.count() as u64);
    let ids: Vec<_> = manifest.entries().map(|entry| entry.blob).collect();
    let mut texts = BTreeMap::new();
    let sent = source.blobs(&ids, |mut blob| {
        let mut text = String::new();
        blob.bytes.read_to_string(&mut text)?;
        assert_eq!(text.len() as u64, blob.size_bytes);
        texts.insert(blob.id, text);
        Ok(Wanted::More)
    });
    sent.unwrap();
    let file = |entry: common::Entry<'_>| {
        let path = String::from_utf8(entry.path.to_vec()).unwrap();
        (path, (entry.mode.word().to_owned(), texts[&entry.blob].clone()))
    };
    manifest.entries().map(file).collect()
}

fn texts_of(source: &Source) -> BTreeMap<String, String> {
    let mut texts: BTreeMap<_, _> =
        files_of(source).into_iter().map(|(path, (_, text))| (path, text)).collect();
    texts.remove(".bettertest/pipedef.py").unwrap();
    texts
}

fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())).collect()
}

#[test]
fn a_work_tree_is_what_lies_on_disk() {
    let project = Project::of_git();
    project.write(".gitignore", "ignored\n");
    project.write("clean", "clean");
    project.write("deep/er/changed", "before");
    project.write("deleted", "deleted");
    project.write("staged", "before");
    project.commit();
    let clean = project.snapshot();
    assert_eq!(clean.record.branch.as_deref(), Some("main"));
    assert_eq!(clean.record.commit, Some(project.git(".", &["rev-parse", "HEAD"])));
    assert!(!clean.record.is_dirty);

    project.write("deep/er/changed", "after!");
    project.write("staged", "staged");
    project.git(".", &["add", "staged"]);
    std::fs::remove_file(project.path().join("deleted")).unwrap();
    project.write("ignored", "ignored");
    project.write("new/file", "untracked");
    symlink("../clean", project.path().join("new/link")).unwrap();
    let run = project.path().join("run.sh");
    std::fs::write(&run, "#!").unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).unwrap();
    nix::unistd::mkfifo(&project.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();

    let source = project.snapshot();
    assert!(source.record.is_dirty);
    assert_ne!(source.record.tree, clean.record.tree);
    let files = files_of(&source);
    insta::assert_snapshot!(
        files.iter().map(|(path, (mode, text))| format!("{mode} {path}: {}\n", text.trim())).collect::<String>(),
        @r##"
    100644 .bettertest/pipedef.py: # source_at
    100644 .gitignore: ignored
    100644 clean: clean
    100644 deep/er/changed: after!
    100644 new/file: untracked
    120000 new/link: ../clean
    100755 run.sh: #!
    100644 staged: staged
    "##
    );
    // Of the second snapshot of the same files all is known.
    assert_eq!(project.snapshot().record, source.record);
    assert_eq!(project.snapshot().tree, source.tree);
}

#[test]
fn what_git_is_told_not_to_look_at_is_looked_at() {
    let project = Project::of_git();
    project.write("assumed", "before");
    project.write("quick", "before");
    project.commit();
    project.git(".", &["update-index", "--assume-unchanged", "assumed"]);
    project.write("assumed", "after!");
    // In the moment in which the index was written, and with the same size and time.
    project.write_unseen("quick", "after!");
    let source = project.snapshot();
    assert_eq!(texts_of(&source), texts([("assumed", "after!"), ("quick", "after!")]));
    assert!(source.record.is_dirty);
}

#[test]
fn bytes_are_those_on_disk_where_git_has_others() {
    let project = Project::of_git();
    project.write(".gitattributes", "*.txt text eol=lf\n*.c ident\n");
    project.write("dos.txt", "a\r\nb\r\n");
    project.write("id.c", "$Id$");
    project.commit();
    project.write("dos.txt", "a\r\nb\r\n");
    let source = project.snapshot();
    assert_eq!(texts_of(&source)["dos.txt"], "a\r\nb\r\n");
    std::fs::remove_file(project.path().join(".gitattributes")).unwrap();
    project.git(".", &["config", "core.autocrlf", "input"]);
    let source = project.snapshot();
    assert_eq!(texts_of(&source)["dos.txt"], "a\r\nb\r\n");
}

#[test]
fn what_was_changed_since_is_as_it_was() {
    let project = Project::of_git();
    project.write("tracked", "tracked");
    project.commit();
    project.write("new", "new");
    let source = project.snapshot();
    project.write("tracked", "other1");
    project.write("new", "other2");
    let as_it_was = texts([("tracked", "tracked"), ("new", "new")]);
    assert_eq!(texts_of(&source), as_it_was);
    // Also for the process that comes after.
    let again = Source::open(source.folder()).unwrap().unwrap();
    assert_eq!((&again.record, &again.tree), (&source.record, &source.tree));
    assert_eq!(texts_of(&again), as_it_was);
}

#[test]
fn a_folder_without_git_obeys_its_gitignore() {
    let project = Project::new();
    project.write(".gitignore", "*.log\n/build/\n");
    project.write("sub/.gitignore", "!kept.log\n");
    project.write("a.log", "ignored");
    project.write("build/x", "ignored");
    project.write("sub/kept.log", "kept");
    project.write(".hidden", "hidden");
    let source = project.snapshot();
    let names: Vec<String> = texts_of(&source).into_keys().collect();
    assert_eq!(names, [".gitignore", ".hidden", "sub/.gitignore", "sub/kept.log"]);
    assert_eq!((source.record.commit, source.record.branch, source.record.is_dirty), (None, None, false));
}

#[test]
fn without_git_an_unseen_change_is_seen() {
    let project = Project::new();
    project.write("file", "before");
    let before = project.snapshot();
    project.write_unseen("file", "after!");
    let after = project.snapshot();
    assert_ne!(before.record.tree, after.record.tree);
    assert_eq!(texts_of(&after), texts([("file", "after!")]));
}

#[test]
fn submodules_and_other_gits_are_what_lies_in_them() {
    let library = Project::of_git();
    library.write("lib", "lib");
    library.commit();
    let project = Project::of_git();
    project.write("top", "top");
    project.git(".", &["submodule", "--quiet", "add", library.path().to_str().unwrap(), "vendor/lib"]);
    project.commit();
    project.write("vendor/lib/lib", "changed");
    project.write("other/inner", "inner");
    project.git("other", &["init", "-q"]);
    let source = project.snapshot();
    let found = texts_of(&source);
    assert_eq!(found["vendor/lib/lib"], "changed");
    assert_eq!(found["other/inner"], "inner");
    assert!(
        !found.keys().any(|path| path.split('/').any(|name| name == ".git" && path != "vendor/lib/.git"))
    );
}

#[test]
fn what_is_seen_through_a_link_is_not_there() {
    let project = Project::of_git();
    project.write("folder/file", "file");
    project.write("elsewhere/file", "elsewhere");
    project.commit();
    std::fs::remove_dir_all(project.path().join("folder")).unwrap();
    symlink("elsewhere", project.path().join("folder")).unwrap();
    let source = project.snapshot();
    assert_eq!(texts_of(&source), texts([("elsewhere/file", "elsewhere"), ("folder", "elsewhere")]));
}

#[test]
fn no_project_and_what_cannot_be_read_are_said() {
    let project = Project::new();
    let alone = project.path().join("pipedef.py");
    std::fs::write(&alone, "").unwrap();
    let error = snapshot(&alone, &project.stored.path().join("x"), &project.stored.path().join("ids"));
    let error = error.err().unwrap();
    assert_eq!(error.reason(), Reason::SpecRefused);
    assert!(error.to_string().ends_with("it lies neither in a git work tree nor in a folder .bettertest/"));

    let project = Project::of_git();
    std::fs::write(project.path().join(".git/index"), "torn").unwrap();
    let error = project.try_snapshot().err().unwrap();
    assert_eq!(error.reason(), Reason::SourceLost);
    assert!(matches!(error, SourceError::Git { .. }), "{error}");
}
