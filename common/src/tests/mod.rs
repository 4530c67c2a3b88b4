mod again;
mod machine;
mod runners;
mod source;
mod wire;
