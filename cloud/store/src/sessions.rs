//! Sessions of Units: who is online, and which of two sessions counts.

use std::fmt;

use rusqlite::{OptionalExtension as _, params};

use crate::error::StoreError;
use crate::records::now_micros;
use crate::thread::{Store, Work, sql};
use crate::units::find;

/// Whether a Unit's link is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnlineStatus {
    /// No session.
    Offline,
    /// Session open, first full status not stored yet.
    Connected,
    /// Session open, status known.
    Online,
}

impl OnlineStatus {
    /// The word that the tools read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "Offline",
            Self::Connected => "Connected",
            Self::Online => "Online",
        }
    }

    pub(crate) fn from_word(word: &str) -> Self {
        match word {
            "Online" => Self::Online,
            "Connected" => Self::Connected,
            _ => Self::Offline,
        }
    }
}

impl fmt::Display for OnlineStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn set_online(work: &mut Work<'_>, unit_id: &str, online: OnlineStatus) -> Result<(), StoreError> {
    work.sql
        .execute(
            "UPDATE units SET online_status = ?2, online_changed_at = ?3 WHERE id = ?1",
            params![unit_id, online.as_str(), now_micros()],
        )
        .map_err(sql("store whether a Unit is online"))?;
    work.touch(unit_id)
}

impl Store {
    /// Opens a session: it replaces every earlier one of the Unit. Returns its number.
    pub async fn open_session(&self, unit_id: &str) -> Result<i64, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let session = work
                .sql
                .query_row(
                    "UPDATE units SET session = abs(session) + 1 WHERE id = ?1 AND status = 'provisioned' \
                     RETURNING session",
                    [&unit_id],
                    |row| row.get(0),
                )
                .optional()
                .map_err(sql("open a session"))?
                .ok_or(StoreError::NotFound("provisioned Unit"))?;
            set_online(work, &unit_id, OnlineStatus::Connected)?;
            Ok(session)
        })
        .await
    }

    /// Closes a session; without effect when a newer one has replaced it.
    pub async fn close_session(&self, unit_id: &str, session: i64) -> Result<(), StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let present = find(work, &unit_id)?.is_some_and(|unit| unit.session == session);
            if present { set_online(work, &unit_id, OnlineStatus::Offline) } else { Ok(()) }
        })
        .await
    }
}

/// Marks the Unit online when `session` is still its newest one.
pub(crate) fn mark_online(work: &mut Work<'_>, unit_id: &str, session: i64) -> Result<(), StoreError> {
    match find(work, unit_id)? {
        Some(unit) if unit.session == session && unit.online != OnlineStatus::Online => {
            set_online(work, unit_id, OnlineStatus::Online)
        }
        _ => Ok(()),
    }
}
