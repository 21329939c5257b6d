//! How several processes divide the parts of a map node: each begins with its own shard, and then takes what nobody has done.

use paraloom_store::Digest;

/// Which of several workers this one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0 on.
    pub index: u32,
    /// How many workers there are; at least one.
    pub count: u32,
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            || "write I/N: the number of this worker, from 0 on, and how many there are".to_owned();
        let (index, count) = text.split_once('/').ok_or_else(form)?;
        let (index, count): (u32, u32) =
            (index.trim().parse().map_err(|_| form())?, count.trim().parse().map_err(|_| form())?);
        if index < count {
            return Ok(Self { index, count });
        }
        Err(match count {
            0 => "there is at least one worker".to_owned(),
            _ => format!("of {count} workers the last has the number {}", count - 1),
        })
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// The numbers below `total` in the order in which a worker goes through them: its shard in order, and then the others shuffled
/// by `nonce`, which no other worker has. Who is at the same number as another does it twice, so all take other ways.
pub(crate) fn order(total: usize, shard: Shard, nonce: &str) -> Vec<usize> {
    let bound = |index: u32| {
        let share = total as u128 * u128::from(index) / u128::from(shard.count.max(1));
        usize::try_from(share).unwrap_or(total)
    };
    let own = bound(shard.index)..bound(shard.index.saturating_add(1)).min(total);
    let mut others: Vec<_> = (0..total).filter(|number| !own.contains(number)).collect();
    others.sort_by_cached_key(|number| Digest::of(format!("{nonce}/{number}").as_bytes()));
    own.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn shards_are_written_as_they_are_counted() {
        let shard = |text: &str| text.parse::<Shard>().map(|shard| shard.to_string());
        assert_eq!(shard("0/1"), Ok("0/1".to_owned()));
        assert_eq!(shard("7/8"), Ok("7/8".to_owned()));
        assert_eq!(shard("8/8"), Err("of 8 workers the last has the number 7".to_owned()));
        assert_eq!(shard("0/0"), Err("there is at least one worker".to_owned()));
        for text in ["", "1", "a/b", "-1/2", "1/2/3", "1.5/2"] {
            assert!(shard(text).expect_err(text).starts_with("write I/N"), "{text}");
        }
    }

    #[test]
    fn every_worker_goes_through_everything_and_first_through_what_is_its_own() {
        for total in [0, 1, 2, 7, 64, 1_000] {
            for count in [1, 2, 3, 10, 2_000] {
                let mut first = Vec::new();
                for index in 0..count {
                    let shard = Shard { index, count };
                    let order = order(total, shard, &index.to_string());
                    assert_eq!(order.len(), total);
                    assert_eq!(order.iter().collect::<HashSet<_>>().len(), total);
                    let (from, to) = (
                        total * index as usize / count as usize,
                        total * (index as usize + 1) / count as usize,
                    );
                    assert!(order[..to - from].iter().copied().eq(from..to));
                    first.extend(from..to);
                }
                assert!(first.into_iter().eq(0..total));
            }
        }
        let [one, other] = ["a", "b"].map(|nonce| order(100, Shard { index: 0, count: 2 }, nonce));
        assert_eq!(one[..50], other[..50]);
        assert_ne!(one, other);
    }
}
