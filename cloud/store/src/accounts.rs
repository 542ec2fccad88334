//! Companies, users and enrolment tokens.

use std::fmt;
use std::str::FromStr;

use rusqlite::{OptionalExtension as _, Row, params};
use uuid::Uuid;

use crate::certificates::{Certificate, NewCertificate, insert};
use crate::error::StoreError;
use crate::records::now_micros;
use crate::thread::{Store, Work, sql};

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Owns Units and components.
    Oem,
    /// Owns services.
    ServiceProvider,
    /// Runs a fleet.
    FleetOwner,
    /// Operates the cloud.
    Admin,
}

impl Role {
    /// The word that the tools read.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Oem => "oem",
            Self::ServiceProvider => "service provider",
            Self::FleetOwner => "fleet owner",
            Self::Admin => "admin",
        }
    }

    /// Identity type of the role's company in messages.
    pub const fn company_kind(self) -> &'static str {
        match self {
            Self::ServiceProvider => "sp",
            Self::Admin => "cloud",
            Self::Oem | Self::FleetOwner => "oem",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = StoreError;

    /// Accepts the tools' words and the short ones: oem, sp, fleet, admin.
    fn from_str(word: &str) -> Result<Self, StoreError> {
        match word {
            "oem" => Ok(Self::Oem),
            "sp" | "service provider" => Ok(Self::ServiceProvider),
            "fleet" | "fleet owner" => Ok(Self::FleetOwner),
            "admin" => Ok(Self::Admin),
            _ => Err(StoreError::Conflict("role must be oem, sp, fleet or admin".to_owned())),
        }
    }
}

/// A user with its company.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// UUIDv4.
    pub id: String,
    /// What it may do.
    pub role: Role,
    /// UUIDv4 of the company.
    pub company_id: String,
    /// Name of the company.
    pub company: String,
    /// Login name, CN of the certificate.
    pub username: String,
    /// E-mail address.
    pub email: String,
}

/// A user to make.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// What it may do.
    pub role: Role,
    /// Name of the company; made when new.
    pub company: String,
    /// Login name, unique per company and role.
    pub username: String,
    /// E-mail address.
    pub email: String,
}

/// An enrolment token found by its hash.
#[derive(Debug, Clone)]
pub struct Token {
    /// Whom it enrols.
    pub account: Account,
    /// Key that used it, and the chain that was issued.
    pub used: Option<([u8; 32], String)>,
}

const ACCOUNT: &str = "u.id, u.role, u.company_id, c.title, u.username, u.email";

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    let role: String = row.get(1)?;
    let role = role
        .parse()
        .map_err(|_| rusqlite::Error::InvalidColumnType(1, "role".to_owned(), rusqlite::types::Type::Text))?;
    Ok(Account {
        id: row.get(0)?,
        role,
        company_id: row.get(2)?,
        company: row.get(3)?,
        username: row.get(4)?,
        email: row.get(5)?,
    })
}

/// Makes the user when it is new; an existing one keeps its identity and gets the e-mail address.
fn ensure(work: &Work<'_>, new: &NewAccount) -> Result<(Account, bool), StoreError> {
    let failed = sql("store a user");
    let kind = new.role.company_kind();
    work.sql
        .execute(
            "INSERT INTO companies (id, kind, title) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![Uuid::new_v4().to_string(), kind, new.company],
        )
        .map_err(&failed)?;
    let company_id: String = work
        .sql
        .query_row("SELECT id FROM companies WHERE kind = ?1 AND title = ?2", [kind, &new.company], |row| {
            row.get(0)
        })
        .map_err(&failed)?;
    let made = work
        .sql
        .execute(
            "INSERT INTO users (id, role, company_id, username, email, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
            params![
                Uuid::new_v4().to_string(),
                new.role.as_str(),
                company_id,
                new.username,
                new.email,
                now_micros()
            ],
        )
        .map_err(&failed)?;
    work.sql
        .execute(
            "UPDATE users SET email = ?4 WHERE company_id = ?1 AND role = ?2 AND username = ?3",
            params![company_id, new.role.as_str(), new.username, new.email],
        )
        .map_err(&failed)?;
    let query = format!(
        "SELECT {ACCOUNT} FROM users u JOIN companies c ON c.id = u.company_id \
         WHERE u.company_id = ?1 AND u.role = ?2 AND u.username = ?3"
    );
    let found = work
        .sql
        .query_row(&query, params![company_id, new.role.as_str(), new.username], account)
        .map_err(&failed)?;
    Ok((found, made > 0))
}

fn add_token(work: &Work<'_>, user_id: &str, hash: &[u8; 32], expires_at: i64) -> Result<(), StoreError> {
    let failed = sql("store an enrolment token");
    // A new invitation replaces open ones; used ones stay for repeated calls until they expire.
    work.sql
        .execute(
            "DELETE FROM enrolment_tokens WHERE (user_id = ?1 AND used_key IS NULL) OR expires_at < ?2",
            params![user_id, now_micros()],
        )
        .map_err(&failed)?;
    work.sql
        .execute(
            "INSERT INTO enrolment_tokens (hash, user_id, expires_at) VALUES (?1, ?2, ?3)",
            params![hash.as_slice(), user_id, expires_at],
        )
        .map_err(&failed)?;
    Ok(())
}

impl Store {
    /// True as long as no user holds a certificate.
    pub async fn nobody_enrolled(&self) -> Result<bool, StoreError> {
        self.transact(|work| {
            work.sql
                .query_row(
                    "SELECT NOT EXISTS (SELECT 1 FROM certificates WHERE user_id IS NOT NULL)",
                    [],
                    |row| row.get(0),
                )
                .map_err(sql("look for users"))
        })
        .await
    }

    /// Makes a user (or finds the same one again) and gives it a new one-time token, valid until
    /// `expires_at`. The flag tells whether the user is new.
    pub async fn invite(
        &self,
        new: NewAccount,
        token_hash: [u8; 32],
        expires_at: i64,
    ) -> Result<(Account, bool), StoreError> {
        self.transact(move |work| {
            let (account, made) = ensure(work, &new)?;
            add_token(work, &account.id, &token_hash, expires_at)?;
            Ok((account, made))
        })
        .await
    }

    /// The token with this hash, unless it is unknown or expired at `now`.
    pub async fn token(&self, hash: [u8; 32], now: i64) -> Result<Option<Token>, StoreError> {
        self.transact(move |work| {
            let query = format!(
                "SELECT {ACCOUNT}, t.used_key, t.chain FROM enrolment_tokens t \
                 JOIN users u ON u.id = t.user_id JOIN companies c ON c.id = u.company_id \
                 WHERE t.hash = ?1 AND t.expires_at > ?2"
            );
            work.sql
                .query_row(&query, params![hash.as_slice(), now], |row| {
                    let key: Option<[u8; 32]> = row.get(6)?;
                    let chain: Option<String> = row.get(7)?;
                    Ok(Token { account: account(row)?, used: key.zip(chain) })
                })
                .optional()
                .map_err(sql("find an enrolment token"))
        })
        .await
    }

    /// Uses up a token for a certificate. When the same key has used it before, the earlier chain is
    /// returned and nothing changes; a token used by another key is a conflict.
    pub async fn use_token(&self, hash: [u8; 32], certificate: NewCertificate) -> Result<String, StoreError> {
        self.transact(move |work| {
            let failed = sql("use an enrolment token");
            let used: Option<(Option<[u8; 32]>, Option<String>)> = work
                .sql
                .query_row(
                    "SELECT used_key, chain FROM enrolment_tokens WHERE hash = ?1",
                    [hash.as_slice()],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()
                .map_err(&failed)?;
            match used {
                None => Err(StoreError::NotFound("enrolment token")),
                Some((Some(key), Some(chain))) if key == certificate.key_hash => Ok(chain),
                Some((Some(_), _)) => Err(StoreError::Conflict("the token is already used".to_owned())),
                Some((None, _)) => {
                    let chain = certificate.chain.clone();
                    let key = certificate.key_hash;
                    insert(work, &certificate)?;
                    work.sql
                        .execute(
                            "UPDATE enrolment_tokens SET used_key = ?2, chain = ?3 WHERE hash = ?1",
                            params![hash.as_slice(), key.as_slice(), chain],
                        )
                        .map_err(&failed)?;
                    Ok(chain)
                }
            }
        })
        .await
    }

    /// The account behind a user certificate.
    pub async fn account_of(&self, certificate: &Certificate) -> Result<Option<Account>, StoreError> {
        let Some(user_id) = certificate.user_id().map(str::to_owned) else { return Ok(None) };
        self.transact(move |work| {
            let query = format!(
                "SELECT {ACCOUNT} FROM users u JOIN companies c ON c.id = u.company_id WHERE u.id = ?1"
            );
            work.sql.query_row(&query, [user_id], account).optional().map_err(sql("find a user"))
        })
        .await
    }
}
