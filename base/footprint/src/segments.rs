//! The unwritable segments of the program and its libraries.
//!
//! The dynamic loader names them, not `/proc/self/maps`: there, constants look like data that the loader has
//! relocated and then protected, whose pages must never be dropped, and a library that is just being loaded
//! covers for a moment its later data as well.

use std::ffi::{CStr, c_int, c_void};

use libc::{PF_W, PT_DYNAMIC, PT_LOAD};

/// The loader has relocated code and constants as well: an entry of the dynamic section, or a flag in one.
const DT_TEXTREL: usize = 22;
const DT_FLAGS: usize = 30;
const DF_TEXTREL: usize = 4;

/// Entry of a dynamic section.
#[repr(C)]
struct Dynamic {
    tag: usize,
    value: usize,
}

/// Unmaps the pages of all unwritable segments; they come back from their files when they are used.
pub fn unmap_pages() {
    // SAFETY: the callback has the type that is asked for, does not unwind and takes no data.
    unsafe {
        libc::dl_iterate_phdr(Some(unmap_object), std::ptr::null_mut());
    }
}

/// The loader calls this with its lock held: the object stays mapped meanwhile.
unsafe extern "C" fn unmap_object(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the loader hands in a loaded object with its program headers; the name is a C string or null.
    let (base, headers, name) = unsafe {
        let info = &*info;
        let name = if info.dlpi_name.is_null() { c"" } else { CStr::from_ptr(info.dlpi_name) };
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        (place(info.dlpi_addr), headers, name)
    };
    // The program itself has no name; what the kernel adds has one without a path, and no file behind it.
    if !(name.is_empty() || name.to_bytes().starts_with(b"/")) {
        return 0;
    }
    let dynamic = headers.iter().find(|header| header.p_type == PT_DYNAMIC);
    // SAFETY: a loaded object has its dynamic section in memory, where this header says.
    if dynamic.is_some_and(|header| unsafe { relocates_text(base + place(header.p_vaddr)) }) {
        return 0;
    }
    for header in headers.iter().filter(|header| header.p_type == PT_LOAD && header.p_flags & PF_W == 0) {
        let start = base + place(header.p_vaddr);
        let end = start + place(header.p_memsz);
        // The loader maps whole pages and lays segments of different permissions into different ones.
        let start = start - start % crate::page_size();
        // SAFETY: the range is an unwritable mapping of a file whose pages nobody has modified, as checked
        // above, so that dropping them only means reading them from the file again.
        unsafe {
            libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED);
        }
    }
    0
}

/// Whether the dynamic section at `address` tells of relocations in unwritable segments.
///
/// # Safety
/// There must be a dynamic section at this address.
unsafe fn relocates_text(address: usize) -> bool {
    let mut entry = address as *const Dynamic;
    loop {
        // SAFETY: the section ends with an entry that is zero, and we stop there.
        let Dynamic { tag, value } = unsafe { entry.read() };
        match tag {
            0 => return false,
            DT_TEXTREL => return true,
            DT_FLAGS if value & DF_TEXTREL != 0 => return true,
            _ => {}
        }
        // SAFETY: as above, the end has not been reached.
        entry = unsafe { entry.add(1) };
    }
}

/// An address of the headers; it has the size of an address of this machine.
fn place(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(0)
}
