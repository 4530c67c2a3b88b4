mod again;
mod machine;
mod wire;
