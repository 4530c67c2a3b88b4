mod ansi;
mod route;
