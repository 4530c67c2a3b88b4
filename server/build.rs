//! Refuses to build without the page, and says how to make it.

fn main() {
    let page = std::path::Path::new("../frontend/dist/index.html");
    println!("cargo::rerun-if-changed=../frontend/dist");
    println!("cargo::rerun-if-changed=../bettertest");
    if !page.exists() {
        println!("cargo::error=the page is not built: frontend/dist/index.html does not exist");
        println!("cargo::error=hint: cd frontend && trunk build   (or `make`, which also fetches trunk)");
    }
}
