//! What came of work that was given to another task or thread.

use tokio::task::JoinError;

/// Its result; a panic goes on here. Nothing that is waited for is given up on purpose, so that what was given up was so
/// by the end of this process, and whoever waits ends with it, without a word.
pub(crate) async fn joined<T>(worked: Result<T, JoinError>) -> T {
    match worked.map_err(JoinError::try_into_panic) {
        Ok(result) => result,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::joined;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn what_was_given_up_says_nothing() {
        let given_up = tokio::spawn(std::future::pending::<()>());
        given_up.abort();
        assert_eq!(joined(given_up.await).now_or_never(), None);
        assert_eq!(joined(tokio::spawn(async { 7 }).await).await, 7);
    }

    #[tokio::test]
    #[should_panic(expected = "its own")]
    async fn a_panic_goes_on() {
        joined(tokio::spawn(async { panic!("its own") }).await).await
    }
}
