//! Several logs as one, in the order of their lines' times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::lines::Window;
use super::parts::Parts;
use crate::Error;

/// Most logs that are put together; each takes two open files.
pub const MAX_SOURCES: usize = 128;

/// Reads the next line of a log into the buffer and answers its time; `None` at the end.
pub type Next<'a> = Box<dyn FnMut(&mut Vec<u8>) -> Result<Option<u64>, Error> + 'a>;

/// Adds the lines of all sources that are within the window, oldest first; those of one second in the order of
/// the sources, those of one source in their own.
pub fn merge(sources: Vec<Next<'_>>, window: Window, parts: &mut Parts) -> Result<(), Error> {
    merged(sources, window, |at, line| parts.line(at, line))
}

/// The same, for anybody.
pub fn merged(
    sources: Vec<Next<'_>>,
    window: Window,
    mut put: impl FnMut(u64, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut open: Vec<(Next<'_>, Vec<u8>)> = sources.into_iter().map(|next| (next, Vec::new())).collect();
    let mut heads = BinaryHeap::new();
    for (index, (next, line)) in open.iter_mut().enumerate() {
        heads.extend(step(next, line, window)?.map(|at| Reverse((at, index))));
    }
    while let Some(Reverse((at, index))) = heads.pop() {
        let Some((next, line)) = open.get_mut(index) else { continue };
        put(at, line)?;
        heads.extend(step(next, line, window)?.map(|at| Reverse((at, index))));
    }
    Ok(())
}

fn step(next: &mut Next<'_>, line: &mut Vec<u8>, window: Window) -> Result<Option<u64>, Error> {
    loop {
        match next(line)? {
            Some(at) if !window.contains(at) => {}
            found => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parts::Limits;
    use super::*;
    use proptest::prelude::*;
    use std::io::Read as _;

    proptest! {
        // SM-40: lines of several instances come as if they had been written into one log.
        #[test]
        fn lines_of_all_come_in_order(logs in proptest::collection::vec(proptest::collection::vec(0u64..9, 0..12), 0..5)) {
            let folder = tempfile::tempdir().unwrap();
            let mut parts = Parts::new(folder.path(), Limits::new(1 << 18, 4)).unwrap();
            let mut expected = Vec::new();
            let mut sources: Vec<Next<'_>> = Vec::new();
            for (number, times) in logs.iter().enumerate() {
                let mut times = times.clone();
                times.sort_unstable();
                expected.extend(times.iter().enumerate().map(|(line, &at)| (at, number, line)));
                let mut rest = times.into_iter().enumerate();
                sources.push(Box::new(move |text: &mut Vec<u8>| {
                    let Some((line, at)) = rest.next() else { return Ok(None) };
                    *text = format!("{number} {line}").into_bytes();
                    Ok(Some(at))
                }));
            }
            expected.retain(|(at, ..)| (2..7).contains(at));
            expected.sort_unstable();
            merge(sources, Window { from: 2, till: 7 }, &mut parts).unwrap();
            let packed = parts.finish().unwrap();
            let mut text = String::new();
            if packed.count() > 0 {
                let data = packed.part(0).unwrap();
                flate2::read::GzDecoder::new(data.as_slice()).read_to_string(&mut text).unwrap();
            }
            let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
            let expected: Vec<String> = expected.iter().map(|(_, number, line)| format!("{number} {line}")).collect();
            prop_assert_eq!(lines, expected);
        }
    }
}
