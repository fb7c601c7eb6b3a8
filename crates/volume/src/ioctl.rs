//! The few kernel calls that have no safe form elsewhere: btrfs subvolumes, extent maps, loop devices.
//!
//! Lives here: their argument layouts and numbers (linux/btrfs.h, linux/fiemap.h, linux/loop.h).
//! Does not live here: when they are used.
//! Invariant: all `unsafe` of this crate; every function takes and gives plain values.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, Setter, Updater, opcode};

const BTRFS: u8 = 0x94;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct SubvolumeArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct SnapshotArgs {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

const SUBVOL_CREATE: Opcode = opcode::write::<SubvolumeArgs>(BTRFS, 14);
const SNAP_DESTROY: Opcode = opcode::write::<SubvolumeArgs>(BTRFS, 15);
const SNAP_CREATE_V2: Opcode = opcode::write::<SnapshotArgs>(BTRFS, 23);

/// Make an empty subvolume `name` in the directory.
pub(crate) fn create_subvolume(dir: impl AsFd, name: &str) -> io::Result<()> {
    let args = SubvolumeArgs {
        fd: 0,
        name: fixed(name)?,
    };
    // SAFETY: the opcode reads exactly one `SubvolumeArgs`, whose name ends in a zero byte.
    unsafe { ioctl::ioctl(dir, Setter::<SUBVOL_CREATE, _>::new(args)) }.map_err(Into::into)
}

/// Remove the subvolume `name` of the directory with all its content. Fails on anything else.
pub(crate) fn destroy_subvolume(dir: impl AsFd, name: &str) -> io::Result<()> {
    let args = SubvolumeArgs {
        fd: 0,
        name: fixed(name)?,
    };
    // SAFETY: as above.
    unsafe { ioctl::ioctl(dir, Setter::<SNAP_DESTROY, _>::new(args)) }.map_err(Into::into)
}

/// Make `name` in the directory a writable snapshot of the subvolume; durable when this returns.
pub(crate) fn snapshot(dir: impl AsFd, source: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let args = SnapshotArgs {
        fd: i64::from(source.as_raw_fd()),
        transid: 0,
        flags: 0,
        unused: [0; 4],
        name: fixed(name)?,
    };
    // SAFETY: the opcode reads exactly one `SnapshotArgs`; `source` is open for the whole call.
    unsafe { ioctl::ioctl(dir, Setter::<SNAP_CREATE_V2, _>::new(args)) }.map_err(Into::into)
}

/// One stretch of a file on disk.
pub(crate) struct Extent {
    pub end: u64,
    pub length: u64,
    pub is_shared: bool,
    pub is_last: bool,
}

const EXTENTS_AT_ONCE: usize = 128;
const EXTENT_LAST: u32 = 0x1;
const EXTENT_SHARED: u32 = 0x2000;

#[repr(C)]
#[derive(Clone, Copy)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct MapHeader {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
}

#[repr(C)]
struct Map {
    header: MapHeader,
    extents: [RawExtent; EXTENTS_AT_ONCE],
}

const FIEMAP: Opcode = opcode::read_write::<MapHeader>(b'f', 11);

/// The next extents of the file from this offset on.
pub(crate) fn extents(file: &File, start: u64) -> io::Result<Vec<Extent>> {
    let empty = RawExtent {
        logical: 0,
        physical: 0,
        length: 0,
        reserved64: [0; 2],
        flags: 0,
        reserved: [0; 3],
    };
    let count = u32::try_from(EXTENTS_AT_ONCE).unwrap_or(u32::MAX);
    let header = MapHeader {
        start,
        length: u64::MAX - start,
        flags: 0,
        mapped: 0,
        count,
        reserved: 0,
    };
    let mut map = Map {
        header,
        extents: [empty; EXTENTS_AT_ONCE],
    };
    // SAFETY: the kernel writes at most `count` extents behind the header, which is what `Map` has room for.
    unsafe { ioctl::ioctl(file, Updater::<FIEMAP, Map>::new(&mut map)) }?;
    let mapped = map.header.mapped as usize;
    Ok(map
        .extents
        .iter()
        .take(mapped)
        .map(|e| Extent {
            end: e.logical + e.length,
            length: e.length,
            is_shared: e.flags & EXTENT_SHARED != 0,
            is_last: e.flags & EXTENT_LAST != 0,
        })
        .collect())
}

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    numbers: [u64; 5],
    lo_number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const LOOP_SET_CAPACITY: Opcode = 0x4C07;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
/// The device lets go of its file when the last user closes it, so an unmount leaves nothing behind.
const AUTOCLEAR: u32 = 4;

/// A request whose answer is the returned number.
struct Number<const OPCODE: Opcode>;

// SAFETY: the opcodes this is used with take no argument, and the output is the return value itself.
unsafe impl<const OPCODE: Opcode> Ioctl for Number<OPCODE> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<Self::Output> {
        Ok(out)
    }
}

/// The number of a loop device nobody uses at this moment.
pub(crate) fn free_loop_device(control: &File) -> io::Result<u32> {
    // SAFETY: LOOP_CTL_GET_FREE takes no argument.
    let number = unsafe { ioctl::ioctl(control, Number::<LOOP_CTL_GET_FREE>) }?;
    u32::try_from(number).map_err(|_| io::Error::other("no loop device is free"))
}

/// Put the file behind the loop device. Fails with EBUSY when somebody else was faster.
pub(crate) fn attach_loop(device: &File, file: &File) -> io::Result<()> {
    let info = LoopInfo {
        numbers: [0; 5],
        lo_number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: AUTOCLEAR,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    let fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    // Block size 0 lets the kernel choose what suits the file.
    let config = LoopConfig {
        fd,
        block_size: 0,
        info,
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads exactly one `LoopConfig`; `file` is open for the whole call.
    unsafe { ioctl::ioctl(device, Setter::<LOOP_CONFIGURE, _>::new(config)) }.map_err(Into::into)
}

/// Have the loop device see the new size of its file.
pub(crate) fn refresh_loop_size(device: &File) -> io::Result<()> {
    // SAFETY: LOOP_SET_CAPACITY takes no argument.
    unsafe { ioctl::ioctl(device, Number::<LOOP_SET_CAPACITY>) }?;
    Ok(())
}

fn fixed<const N: usize>(name: &str) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    match bytes.get_mut(..name.len()) {
        Some(room) if name.len() < N => room.copy_from_slice(name.as_bytes()),
        Some(_) | None => return Err(io::Error::from(io::ErrorKind::InvalidFilename)),
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_sizes_the_kernel_expects() {
        assert_eq!(size_of::<SubvolumeArgs>(), 4096);
        assert_eq!(size_of::<SnapshotArgs>(), 4096);
        assert_eq!(size_of::<MapHeader>(), 32);
        assert_eq!(size_of::<RawExtent>(), 56);
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }

    #[test]
    fn names_must_leave_room_for_the_closing_zero() {
        assert!(fixed::<4>("abc").is_ok());
        assert!(fixed::<4>("abcd").is_err());
    }
}
