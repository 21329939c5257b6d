//! Says where libtorch is found when the library is loaded: beside it, where `cargo xtask torch` lays it out, or where it
//! was when this was built.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    let built_with = std::env::var("LIBTORCH").map(|path| format!("{path}/lib")).ok();
    let places = ["$ORIGIN/libtorch/lib", "$ORIGIN/../libtorch/lib", "$ORIGIN/../../libtorch/lib"];
    for place in places.into_iter().map(str::to_owned).chain(built_with) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{place}");
    }
}
