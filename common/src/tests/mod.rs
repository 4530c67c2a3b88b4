mod machine;
mod wire;
