mod again;
mod machine;
mod source;
mod wire;
