//! How much memory a process may still have, read without any but the stack's.

/// What keeps memory back.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux says"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// `RLIMIT_AS`.
    AddressSpace,
    /// `RLIMIT_DATA`.
    Data,
    /// What a kernel may promise that promises no more than it has.
    Promises,
    /// That of a group of processes, such as a container.
    Group,
    /// The machine.
    Machine,
}

impl Limit {
    /// What to do about it.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::AddressSpace => "raise the limit on address space (`ulimit -v`)",
            Self::Data => "raise the limit on data (`ulimit -d`)",
            Self::Promises => "raise `vm.overcommit_ratio`",
            Self::Group => "raise the memory limit of the container",
            Self::Machine => "end other programs",
        }
    }
}

/// What is free, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) free: u64,
    pub(crate) of: Limit,
}

/// The tightest limit of all.
#[cfg(target_os = "linux")]
pub(crate) fn least() -> Option<Room> {
    linux::rooms().into_iter().flatten().min_by_key(|room| room.free)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn least() -> Option<Room> {
    None
}

#[cfg(target_os = "linux")]
pub(crate) use linux::{machine, resident};

#[cfg(not(target_os = "linux"))]
pub(crate) fn resident() -> Option<u64> {
    None
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn machine() -> Option<u64> {
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::CStr;
    use std::fmt::Write as _;

    use super::{Limit, Room};
    use crate::Text;

    type Buffer = [u8; 4096];

    pub(super) fn rooms() -> [Option<Room>; 5] {
        let mut buffer: Buffer = [0; 4096];
        let used = read(c"/proc/self/statm", &mut buffer).and_then(used).unwrap_or_default();
        let strict = read(c"/proc/sys/vm/overcommit_memory", &mut buffer) == Some("2\n");
        let machine = read(c"/proc/meminfo", &mut buffer).unwrap_or_default();
        [
            room(Limit::AddressSpace, limit(libc::RLIMIT_AS), used.0),
            room(Limit::Data, limit(libc::RLIMIT_DATA), used.1),
            promises(machine).filter(|_| strict),
            free(machine),
            group(c"/proc/self/cgroup", "/sys/fs/cgroup", &mut buffer),
        ]
    }

    fn room(of: Limit, limit: Option<u64>, used: u64) -> Option<Room> {
        Some(Room { free: limit?.saturating_sub(used), of })
    }

    fn limit(of: libc::__rlimit_resource_t) -> Option<u64> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the limit is there to be filled.
        let known = unsafe { libc::getrlimit(of, &raw mut limit) } == 0;
        (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
    }

    /// Address space and data in use, in bytes.
    fn used(statm: &str) -> Option<(u64, u64)> {
        Some((pages(statm, 0)?, pages(statm, 5)?))
    }

    /// Bytes of the number of pages at a place of `/proc/self/statm`.
    fn pages(statm: &str, at: usize) -> Option<u64> {
        // SAFETY: it takes nothing and gives a number.
        let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        Some(statm.split(' ').nth(at)?.parse::<u64>().ok()? * page)
    }

    pub(crate) fn resident() -> Option<u64> {
        pages(read(c"/proc/self/statm", &mut [0; 4096])?, 1)
    }

    pub(crate) fn machine() -> Option<u64> {
        kib(read(c"/proc/meminfo", &mut [0; 4096])?, "MemTotal:")
    }

    fn promises(meminfo: &str) -> Option<Room> {
        room(Limit::Promises, kib(meminfo, "CommitLimit:"), kib(meminfo, "Committed_AS:")?)
    }

    fn free(meminfo: &str) -> Option<Room> {
        let swap = kib(meminfo, "SwapFree:").unwrap_or(0);
        Some(Room { free: kib(meminfo, "MemAvailable:")? + swap, of: Limit::Machine })
    }

    fn kib(text: &str, name: &str) -> Option<u64> {
        number(text, name).map(|kib| kib * 1024)
    }

    /// The number after a name at the start of a line.
    fn number(text: &str, name: &str) -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    }

    /// The tightest limit of the groups that this process is in (cgroup v2).
    fn group(own: &CStr, root: &str, buffer: &mut Buffer) -> Option<Room> {
        let mut path = Text::<512>::default();
        let group = read(own, buffer)?;
        let group = group.lines().find_map(|line| line.strip_prefix("0::"))?;
        let _ = path.write_str(group);
        let mut group = path.as_str().trim_end_matches('/');
        let mut least: Option<u64> = None;
        loop {
            if let Some(free) = group_free(root, group, buffer) {
                least = Some(least.map_or(free, |least| least.min(free)));
            }
            let Some((above, _)) = group.rsplit_once('/') else { break };
            group = above;
        }
        least.map(|free| Room { free, of: Limit::Group })
    }

    fn group_free(root: &str, group: &str, buffer: &mut Buffer) -> Option<u64> {
        let mut value = |file: &str, name: &str| {
            let mut path = Text::<1024>::default();
            let _ = write!(path, "{root}{group}/{file}\0");
            number(read(CStr::from_bytes_with_nul(path.bytes()).ok()?, buffer)?, name)
        };
        let used = value("memory.current", "")?;
        // What was read from files goes when memory is needed.
        let files = value("memory.stat", "inactive_file ").unwrap_or(0);
        Some(value("memory.max", "")?.saturating_sub(used.saturating_sub(files)))
    }

    /// A file that is text, or as much of it as the buffer holds.
    fn read<'a>(path: &CStr, buffer: &'a mut Buffer) -> Option<&'a str> {
        // SAFETY: the path ends with a zero, and the bytes that are read into are ours.
        let read = unsafe {
            let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            let read = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
            libc::close(file);
            read
        };
        str::from_utf8(&buffer[..usize::try_from(read).ok()?]).ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const MEMINFO: &str = "\
MemTotal:       1000 kB
MemFree:          10 kB
MemAvailable:     30 kB
SwapTotal:        40 kB
SwapFree:          4 kB
CommitLimit:     100 kB
Committed_AS:     80 kB
";

        #[test]
        fn what_is_free_is_what_the_system_says() {
            assert_eq!(free(MEMINFO), Some(Room { free: 34 * 1024, of: Limit::Machine }));
            assert_eq!(promises(MEMINFO), Some(Room { free: 20 * 1024, of: Limit::Promises }));
            assert_eq!(free("MemTotal: 1 kB\n"), None, "an old kernel does not say");
            assert_eq!(number("max\n", ""), None, "no limit");
            assert_eq!(number("17\n", ""), Some(17));
        }

        #[test]
        fn more_than_all_is_in_use_where_a_limit_came_late() {
            assert_eq!(room(Limit::Data, Some(3), 5).map(|room| room.free), Some(0));
            assert_eq!(room(Limit::Data, None, 5), None);
        }

        #[test]
        fn the_tightest_group_counts_without_what_was_read_from_files() {
            let root = tempfile::tempdir().expect("a directory");
            let write = |name: &str, text: &str| {
                let path = root.path().join(name);
                std::fs::create_dir_all(path.parent().expect("it is below")).expect("it is ours");
                std::fs::write(path, text).expect("it is ours");
            };
            let mut buffer = [0; 4096];
            let mut free = |own: &str| {
                write("own", own);
                let own = format!("{}/own\0", root.path().display());
                let own = CStr::from_bytes_with_nul(own.as_bytes()).expect("a path");
                group(own, root.path().to_str().expect("text"), &mut buffer)
            };
            let room = |free| Some(Room { free, of: Limit::Group });
            assert_eq!(free("4:memory:/\n"), None, "no groups of this kind");
            assert_eq!(free("0::/job/run\n"), None, "no limits");
            write("job/run/memory.max", "max\n");
            write("job/run/memory.current", "50\n");
            write("job/memory.max", "1000\n");
            write("job/memory.current", "900\n");
            assert_eq!(free("4:memory:/\n0::/job/run\n"), room(100));
            write("job/memory.stat", "anon 1\ninactive_file 300\n");
            assert_eq!(free("0::/job/run\n"), room(400));
            write("job/run/memory.max", "60\n");
            assert_eq!(free("0::/job/run\n"), room(10));
            write("memory.max", "7\n");
            write("memory.current", "1\n");
            assert_eq!(free("0::/\n"), room(6), "in a container its own group is the root");
        }

        #[test]
        fn this_process_has_room_on_this_machine() {
            let [.., machine, _] = rooms();
            let machine = machine.expect("Linux says");
            assert!(machine.free > 1 << 20 && machine.of == Limit::Machine, "{machine:?}");
            let mut buffer = [0; 4096];
            let (space, data) =
                read(c"/proc/self/statm", &mut buffer).and_then(used).expect("Linux says");
            assert!(space > data && data > 0, "{space} {data}");
            assert_eq!(read(c"/nonexistent", &mut buffer), None);
        }
    }
}
