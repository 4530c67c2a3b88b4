//! Addresses, there and back.

use common::{RunNumber, TaskId};
use proptest::prelude::*;

use crate::route::{Part, Route};

fn read(url: &str) -> Route {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    Route::read(path, query)
}

#[test]
fn every_page_has_an_address_that_leads_back_to_it() {
    let task = |stage, task, attempt, line: Option<usize>| Route::Task {
        run: RunNumber(7),
        task: TaskId::new(stage, task),
        attempt,
        part: line.map_or(Part::Whole, Part::Line),
    };
    let test = Route::Task {
        run: RunNumber(7),
        task: TaskId::new("TestUnit", "models"),
        attempt: Some(2),
        part: Part::Test("tests/a.py::test[a&b=ü %]".to_owned()),
    };
    for (route, url) in [
        (Route::Runs, "/"),
        (Route::Doctor, "/doctor"),
        (Route::Run(RunNumber(7)), "/runs/7"),
        (task("TestUnit", "models", None, None), "/runs/7/TestUnit.models"),
        (task("TestUnit", "models", Some(2), None), "/runs/7/TestUnit.models?attempt=2"),
        (task("TestUnit", "models", None, Some(9)), "/runs/7/TestUnit.models?line=9"),
        (task("TestUnit", "models", Some(2), Some(9)), "/runs/7/TestUnit.models?attempt=2&line=9"),
        (task("Prüfung", "größe", None, None), "/runs/7/Pr%C3%BCfung.gr%C3%B6%C3%9Fe"),
        (test, "/runs/7/TestUnit.models?attempt=2&test=tests%2Fa.py%3A%3Atest%5Ba%26b%3D%C3%BC%20%25%5D"),
        (Route::Nowhere("/elsewhere".to_owned()), "/elsewhere"),
    ] {
        assert_eq!(route.url(), url);
        assert_eq!(read(url), route);
    }
}

#[test]
fn what_is_no_address_of_ours_leads_nowhere() {
    for url in [
        "/runs/x",
        "/runs/7/nodot",
        "/runs/7/A.b/c",
        "/runs/7/A.b?attempt=x",
        "/runs/7/A.b?line=-1",
        "/runs/7/%zz.b",
        "/runs/7/%",
    ] {
        assert!(matches!(read(url), Route::Nowhere(_)), "{url}");
    }
}

#[test]
fn strange_queries_do_not_matter() {
    assert_eq!(Route::read("/runs/", "?from=mail"), Route::Runs);
    assert_eq!(Route::read("/runs/7/", "?x&attempt"), Route::Run(RunNumber(7)));
}

proptest! {
    #[test]
    fn any_task_comes_back(run: u64, stage in "[^./?]{1,8}", task in "[^./?]{1,8}", attempt: Option<u32>, line: Option<usize>, test in ".{0,8}") {
        let part = line.map_or(Part::Test(test), Part::Line);
        let route = Route::Task { run: RunNumber(run), task: TaskId::new(&stage, &task), attempt, part };
        prop_assert_eq!(read(&route.url()), route);
    }

    #[test]
    fn no_address_is_too_strange(path: String, query: String) {
        Route::read(&path, &query);
    }
}
