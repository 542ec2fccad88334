//! What the benchmark of image installation runs, as programs of their own.
//!
//! ```text
//! aos-install-bench make DIR LAYERS BYTES     gzip layers of so many packed bytes each, from this machine's /usr
//! aos-install-bench serve DIR                 serves the files of DIR over HTTP; tells its address
//! aos-install-bench install DIR ADDRESS DIGEST  installs the image into DIR as the Service Manager does; tells
//!                                             the milliseconds until it is verified, unpacked and durable
//! ```
//! The image manager is the Service Manager's own, on the same kind of runtime. Only the Communication Manager
//! is played: it tells the addresses.

mod image;
mod install;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["make", dir, layers, bytes] => {
            println!("{}", image::make(Path::new(dir), layers.parse()?, bytes.parse()?)?);
            Ok(())
        }
        ["serve", dir] => serve(Path::new(dir)),
        ["install", dir, address, digest] => {
            let time = install::run(Path::new(dir), address, digest.parse().context("the digest")?)?;
            println!("{}", time.as_secs_f64() * 1000.0);
            Ok(())
        }
        _ => bail!("usage: aos-install-bench make DIR LAYERS BYTES | serve DIR | install DIR ADDRESS DIGEST"),
    }
}

/// Serves until it is killed.
fn serve(dir: &Path) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, dir) = (stream?, dir.to_owned());
        std::thread::spawn(move || {
            if let Err(error) = answer(stream, &dir) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream, dir: &Path) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().context("no request")??;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let name = first.split(' ').nth(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let mut file = std::fs::File::open(dir.join(name)).with_context(|| format!("cannot open '{name}'"))?;
    let length = file.metadata()?.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    std::io::copy(&mut file, &mut stream)?;
    Ok(())
}
