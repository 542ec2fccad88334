//! Ways a layer is packed, and the memory unpacking takes: 32 KiB of window for gzip, at most 8 MiB for zstd.

use std::io::{self, BufRead, BufReader, Read};

/// Most bytes of a zstd window, as a power of two; what encoders use up to level 19.
const ZSTD_WINDOW_LOG: u32 = 23;
/// Read from the source at once, bytes.
const CHUNK: usize = 64 * 1024;

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// A plain tar stream.
    Tar,
    /// A tar stream in gzip.
    Gzip,
    /// A tar stream in zstd.
    Zstd,
    /// A squashfs image. Its diff ID is its digest: it has no other plain form.
    Squashfs,
}

impl Packing {
    /// Packing named by a layer's media type, in OCI's and Docker's spelling; `None` for others.
    pub fn of(media_type: &str) -> Option<Self> {
        Some(match media_type {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
                Self::Tar
            }
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Self::Gzip,
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Self::Zstd,
            "application/vnd.oci.image.layer.v1.squashfs" | "application/vnd.aos.image.layer.v1.squashfs" => {
                Self::Squashfs
            }
            _ => return None,
        })
    }

    /// Reads the plain stream out of the packed one. Squashfs is no stream and comes through as it is.
    pub(crate) fn decoder<'a, R: Read + 'a>(self, packed: R) -> io::Result<Box<dyn Read + 'a>> {
        let packed = BufReader::with_capacity(CHUNK, packed);
        Ok(match self {
            Self::Tar | Self::Squashfs => Box::new(packed),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Self::Zstd => Box::new(zstd_decoder(packed)?),
        })
    }
}

fn zstd_decoder<'a, R: BufRead + 'a>(packed: R) -> io::Result<zstd::Decoder<'static, R>> {
    let mut decoder = zstd::Decoder::with_buffer(packed)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}
