//! Bodies of discovery.

use aos_cloud_protocol::discovery::{MAX_DELAY, Request, Response, Verdict};

use super::check_complaint;

/// What a cloud is asked.
pub fn target_discovery_request(data: &[u8]) {
    match Request::read(data) {
        Ok(request) => assert_eq!(Request::read(&request.to_json()), Ok(request), "changes when written"),
        Err(error) => check_complaint(&error),
    }
}

/// What a cloud answers, and what a Unit makes of it.
pub fn target_discovery_response(data: &[u8]) {
    let response = match Response::read(data) {
        Ok(response) => response,
        Err(error) => return check_complaint(&error),
    };
    assert!(response.delay().is_none_or(|delay| delay <= MAX_DELAY));
    match response.verdict() {
        Verdict::Connect(urls) | Verdict::Redirect(urls) => assert!(!urls.is_empty()),
        Verdict::RepeatLater(delay) => assert!(delay <= MAX_DELAY),
        Verdict::Failed => {}
    }
    assert_eq!(Response::read(&response.to_json()), Ok(response), "changes when written");
}
