mod again;
mod machine;
mod packet;
mod runners;
mod source;
mod wire;
