//! Extended headers of entries, in the PAX and the GNU form, and what they and the header ask for together.

use std::io::{self, Read};

use crate::tree::{TreeError, Trouble, refused};

const MAX_EXTENDED: u64 = 1024 * 1024;
const MAX_ATTRIBUTES: usize = 64 * 1024;

/// What extended headers said about the next entry.
#[derive(Default)]
pub(crate) struct Extended {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) opaque: bool,
}

/// Owner, mode and time of an entry.
pub(crate) struct Looks {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) modified: i64,
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) opaque: bool,
}

fn read_extension<R: Read>(entry: &mut tar::Entry<'_, R>, max: u64) -> Result<Vec<u8>, TreeError> {
    if entry.size() > max {
        return Err(refused("an extended header is too long"));
    }
    let mut text = Vec::new();
    entry.take(max).read_to_end(&mut text).map_err(TreeError::Read)?;
    Ok(text)
}

pub(crate) fn read_name<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, TreeError> {
    let mut name = read_extension(entry, 16 * 1024)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

pub(crate) fn read_pax<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    extended: &mut Extended,
    overlay_marks: bool,
) -> Result<(), TreeError> {
    let text = read_extension(entry, MAX_EXTENDED)?;
    let number = |value: &[u8]| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    let mut attribute_bytes = 0;
    for record in tar::PaxExtensions::new(&text) {
        let record = record.map_err(TreeError::Read)?;
        let value = record.value_bytes();
        match record.key_bytes() {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"uid" => extended.uid = number(value),
            b"gid" => extended.gid = number(value),
            // The stream would be cut at other places than its header says.
            b"size" => return Err(refused("its size is given twice")),
            key if key.starts_with(b"GNU.sparse.") => return Err(refused("sparse files are not supported")),
            b"SCHILY.xattr.trusted.overlay.opaque" if overlay_marks => extended.opaque = value == b"y",
            key => {
                let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else { continue };
                // Even what is left out below is bounded: it tells of the writer's intentions.
                attribute_bytes += name.len() + value.len();
                if name.len() > 255 || attribute_bytes > MAX_ATTRIBUTES {
                    return Err(refused("its attributes are too long"));
                }
                // An overlay mounted by a user obeys `user.overlay.*`.
                if name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") {
                    extended.attributes.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

/// What is asked for by header and extended headers together.
pub(crate) fn looks_of(header: &tar::Header, extended: Extended) -> Result<Looks, Trouble> {
    let id = |field: &[u8], value: io::Result<u64>| match value {
        // Some writers leave the field blank when it is 0.
        _ if field.iter().all(|&byte| byte == 0 || byte == b' ') => Ok(0),
        value => value.ok().and_then(|id| u32::try_from(id).ok()).ok_or("its owner is not usable"),
    };
    let old = header.as_old();
    let (uid, gid) = (
        extended.uid.map_or_else(|| id(&old.uid, header.uid()), Ok)?,
        extended.gid.map_or_else(|| id(&old.gid, header.gid()), Ok)?,
    );
    if uid == u32::MAX || gid == u32::MAX {
        // The kernel takes it for "leave as it is".
        return Err("its owner is not usable".into());
    }
    Ok(Looks {
        uid,
        gid,
        mode: header.mode().map_err(|_| "its mode is not usable")?,
        modified: header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0),
        attributes: extended.attributes,
        opaque: extended.opaque,
    })
}
