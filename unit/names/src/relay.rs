//! Questions under way to the next servers: who asked, whom we ask now, and for how long. Pure.
//!
//! Each question goes to one server at a time, under a number of ours, and to the next one when that fails or
//! is silent. The same question repeated by an impatient sender is the same question. When nobody is left the
//! sender is told so, before it would have given up by itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use crate::packet::{self, Code, Content, Heard, Query};

/// Most questions under way.
pub const MAX_FLIGHTS: usize = 128;
/// Most of them from one network.
pub const MAX_OF_ZONE: usize = 32;
/// Most servers asked for one question.
const MAX_TRIES: usize = 3;
/// How long one server may think.
const TRY_TIME: Duration = Duration::from_millis(1500);

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Somebody over UDP.
    Datagram {
        /// Number of the network.
        zone: u64,
        /// Its address.
        from: SocketAddrV4,
    },
    /// A connection.
    Stream {
        /// Number of the network.
        zone: u64,
        /// Number of the connection.
        stream: u64,
    },
}

impl Asker {
    /// Number of the asker's network.
    pub fn zone(&self) -> u64 {
        match self {
            Self::Datagram { zone, .. } | Self::Stream { zone, .. } => *zone,
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this question to this server, and forget an earlier one of the same flight.
    Ask {
        /// Which question.
        flight: u64,
        /// The server.
        server: IpAddr,
        /// Over TCP, as it was asked.
        stream: bool,
        /// The question.
        packet: Vec<u8>,
    },
    /// Tell the asker. The flight, if there was one, is over.
    Tell {
        /// Which question; `None` when nobody else was asked.
        flight: Option<u64>,
        /// Who asked.
        asker: Asker,
        /// The answer.
        packet: Vec<u8>,
    },
}

struct Flight {
    asker: Asker,
    asked_id: u16,
    own_id: u16,
    /// The question as it came.
    query: Vec<u8>,
    /// Name, type and class of it.
    question: Vec<u8>,
    room: usize,
    /// The servers not asked yet, the next one last.
    servers: Vec<IpAddr>,
    until: Instant,
}

/// All questions under way.
#[derive(Default)]
pub struct Relay {
    flights: BTreeMap<u64, Flight>,
    next: u64,
}

impl Relay {
    /// A question for the world outside, read from `packet`; `id` is a random number of ours. `None` when it
    /// is under way already.
    pub fn begin(
        &mut self,
        asker: Asker,
        query: &Query<'_>,
        packet: &[u8],
        servers: &[IpAddr],
        id: u16,
        now: Instant,
    ) -> Option<Action> {
        let same = |flight: &Flight| {
            flight.asker == asker && flight.asked_id == query.id && flight.question == query.question
        };
        if self.flights.values().any(same) {
            return None;
        }
        let zone = asker.zone();
        let of_zone = self.flights.values().filter(|flight| flight.asker.zone() == zone).count();
        let mut servers: Vec<IpAddr> = servers.iter().copied().take(MAX_TRIES).collect();
        servers.reverse();
        let full = self.flights.len() >= MAX_FLIGHTS || of_zone >= MAX_OF_ZONE;
        let server = servers.pop().filter(|_| !full);
        let Some(server) = server else {
            let packet = packet::answer(query, Code::ServFail, &Content::None);
            return Some(Action::Tell { flight: None, asker, packet });
        };
        // A single server may have lost the question; it is asked once more.
        if servers.is_empty() {
            servers.push(server);
        }
        let flight = Flight {
            asker,
            asked_id: query.id,
            own_id: id,
            query: packet.to_vec(),
            question: query.question.to_vec(),
            room: query.room(),
            servers,
            until: now + TRY_TIME,
        };
        let number = self.next;
        self.next += 1;
        let action = ask(number, &flight, server);
        self.flights.insert(number, flight);
        Some(action)
    }

    /// A packet came from the server asked last; `None` when the wait goes on.
    pub fn heard(&mut self, number: u64, packet: &[u8], now: Instant) -> Option<Action> {
        let flight = self.flights.get(&number)?;
        match packet::judge(packet, flight.own_id, &flight.question) {
            Heard::Foreign => None,
            Heard::Failure if !flight.servers.is_empty() => self.failed(number, now),
            Heard::Failure | Heard::Answer => {
                let flight = self.flights.remove(&number)?;
                let mut packet = packet::renumbered(packet, flight.asked_id);
                if matches!(flight.asker, Asker::Datagram { .. }) && packet.len() > flight.room {
                    packet = packet::cut(&packet, &flight.question);
                }
                Some(Action::Tell { flight: Some(number), asker: flight.asker, packet })
            }
        }
    }

    /// The server asked last cannot be reached, or its time is over.
    pub fn failed(&mut self, number: u64, now: Instant) -> Option<Action> {
        let flight = self.flights.get_mut(&number)?;
        if let Some(server) = flight.servers.pop() {
            flight.until = now + TRY_TIME;
            return Some(ask(number, flight, server));
        }
        let flight = self.flights.remove(&number)?;
        let packet = packet::read(&flight.query)
            .map(|query| packet::answer(&query, Code::ServFail, &Content::None))
            .unwrap_or_default();
        Some(Action::Tell { flight: Some(number), asker: flight.asker, packet })
    }

    /// Flights whose server has had its time.
    pub fn overdue(&self, now: Instant) -> Vec<u64> {
        let late = self.flights.iter().filter(|(_, flight)| flight.until <= now);
        late.map(|(number, _)| *number).collect()
    }

    /// Forgets questions whose asker is gone; answers their numbers.
    pub fn forget(&mut self, gone: impl Fn(&Asker) -> bool) -> Vec<u64> {
        let over: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, flight)| gone(&flight.asker))
            .map(|(number, _)| *number)
            .collect();
        for number in &over {
            self.flights.remove(number);
        }
        over
    }

    /// When [`Self::overdue`] has something to say.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.flights.values().map(|flight| flight.until).min()
    }
}

fn ask(number: u64, flight: &Flight, server: IpAddr) -> Action {
    Action::Ask {
        flight: number,
        server,
        stream: matches!(flight.asker, Asker::Stream { .. }),
        packet: packet::renumbered(&flight.query, flight.own_id),
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
