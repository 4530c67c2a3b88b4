mod again;
mod machine;
mod only_tests;
mod packet;
mod runners;
mod source;
mod wire;
