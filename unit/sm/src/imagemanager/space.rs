//! How much images may still take.
//!
//! Free space of the disk less a reserve for everybody else, and, where `imagesPartLimit` says so, the share
//! of the disk less what images take already. What is on its way is counted as three times its packed size, so
//! that several layers at a time do not all take the same space for theirs.

use std::path::Path;

use aos_content_store::Store;
use aos_image_layers::LayerStore;

use crate::Error;

/// Space that stays free on the disk, bytes.
const RESERVE: u64 = 32 << 20;
/// What a packed byte is taken for while it is unpacked.
const GROWTH: u64 = 3;

/// The part of the disk that is for images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Percent of the whole disk; 0 and 100 are all of it.
    pub percent: u8,
}

/// The disk as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    /// Bytes of all of it.
    total: u64,
    /// Bytes free for us.
    free: u64,
}

impl Share {
    /// Bytes that one more content may take while `under_way` packed bytes of others are being unpacked.
    pub fn available(
        self,
        folder: &Path,
        layers: &LayerStore,
        store: &Store,
        under_way: u64,
    ) -> Result<u64, Error> {
        let disk =
            rustix::fs::statvfs(folder).map_err(Error::system("read the free space of the image folder"))?;
        let disk = Disk {
            total: disk.f_blocks.saturating_mul(disk.f_frsize),
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
        };
        let used = if self.is_limited() { used(layers, store)? } else { 0 };
        Ok(self.left(disk, used, under_way.saturating_mul(GROWTH)))
    }

    fn is_limited(self) -> bool {
        (1..100).contains(&self.percent)
    }

    fn left(self, disk: Disk, used: u64, under_way: u64) -> u64 {
        let free = disk.free.saturating_sub(RESERVE);
        let share = if self.is_limited() {
            (disk.total / 100).saturating_mul(u64::from(self.percent)).saturating_sub(used)
        } else {
            free
        };
        free.min(share).saturating_sub(under_way)
    }
}

/// Bytes of everything that is in its place.
fn used(layers: &LayerStore, store: &Store) -> Result<u64, Error> {
    let trees: u64 = layers.list()?.iter().filter_map(|layer| layers.size(layer)).sum();
    Ok(trees.saturating_add(store.total_size()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_and_the_share_both_bound() {
        let disk = Disk { total: 100 << 30, free: 10 << 30 };
        let left = |percent, used, under_way| Share { percent }.left(disk, used, under_way);
        assert_eq!(left(0, 50 << 30, 0), (10 << 30) - RESERVE);
        assert_eq!(left(100, 50 << 30, 0), (10 << 30) - RESERVE);
        assert_eq!(left(20, 15 << 30, 0), 5 << 30);
        assert_eq!(left(20, 15 << 30, 1 << 30), 4 << 30);
        assert_eq!(left(20, 30 << 30, 0), 0);
        let full = Disk { total: 100 << 30, free: 1 };
        assert_eq!(Share { percent: 20 }.left(full, 0, 0), 0);
    }
}
