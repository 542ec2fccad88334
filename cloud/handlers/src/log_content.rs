//! Reading received logs: inflated where they came compressed, node by node, in small chunks.
//!
//! Inflated logs are cut at 512 MiB: some bytes may inflate to a thousand times their size. At most 8 logs are
//! read at the same time, because each takes a thread for as long as its reader likes.

use std::fs::File;
use std::io::{BufReader, Read, Seek as _};
use std::sync::Arc;

use aos_cloud_store::{LogPart, Store};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use tokio::sync::mpsc;

use crate::error::FlowError;
use crate::flows::Flows;

const CHUNK: usize = 64 * 1024;
const CHUNKS_AHEAD: usize = 2;
const MAX_INFLATED: u64 = 512 * 1024 * 1024;
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Logs that are read at the same time.
pub(crate) const READERS: usize = 8;

/// The text of a log, on its way.
pub struct LogContent {
    chunks: mpsc::Receiver<Result<Bytes, FlowError>>,
}

impl LogContent {
    /// The next chunk, at most 64 KiB; none at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, FlowError>> {
        self.chunks.recv().await
    }
}

impl Flows {
    /// What has come for a log request of the Unit so far, of one node or of all; none when there is no such
    /// request. Several nodes are told apart by a line before each.
    pub async fn log_content(
        &self,
        unit_id: &str,
        id: &str,
        node: Option<&str>,
    ) -> Result<Option<LogContent>, FlowError> {
        let Some(request) = self.store.log_request(unit_id, id).await? else { return Ok(None) };
        let mut parts = self.store.log_parts(&request.id).await?;
        parts.retain(|part| node.is_none_or(|node| part.node_id == node));
        let several = parts.windows(2).any(|pair| pair[0].node_id != pair[1].node_id);
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let store = self.store.clone();
        let turn = Arc::clone(&self.inner.log_readers).try_acquire_owned();
        let turn = turn.map_err(|_| FlowError::conflict("too many logs are being read; try again later"))?;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            if let Err(error) = send_all(&store, &parts, several, &sender) {
                // Without a receiver nobody wants to know.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(Some(LogContent { chunks }))
    }
}

fn send_all(
    store: &Store,
    parts: &[LogPart],
    several: bool,
    sender: &mpsc::Sender<Result<Bytes, FlowError>>,
) -> Result<(), FlowError> {
    let mut left = MAX_INFLATED;
    let mut node = None;
    for part in parts {
        if several && node != Some(&part.node_id) {
            node = Some(&part.node_id);
            let line = Bytes::from(format!("==> node {} <==\n", part.node_id));
            if sender.blocking_send(Ok(line)).is_err() {
                return Ok(());
            }
        }
        let Some(file) = store.open_log_part(part)? else { continue };
        let mut reader = inflating(file)?.take(left);
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            let read = reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk).map_err(FlowError::Log)?;
            if read == 0 {
                break;
            }
            if sender.blocking_send(Ok(Bytes::from(chunk))).is_err() {
                return Ok(());
            }
        }
        left = reader.limit();
        if left == 0 {
            let note = Bytes::from_static(b"\n==> the log is longer and cut here <==\n");
            let _ = sender.blocking_send(Ok(note));
            return Ok(());
        }
    }
    Ok(())
}

fn inflating(mut file: File) -> Result<Box<dyn Read>, FlowError> {
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start).map_err(FlowError::Log)?;
    file.rewind().map_err(FlowError::Log)?;
    let file = BufReader::new(file);
    Ok(if start == GZIP { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}
