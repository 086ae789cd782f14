//! weir as an OAuth client of one provider: authorization code with PKCE, device flow, refresh,
//! revocation (RFC 6749, 7636, 8252, 8628, 7009, 9207).
//!
//! - input: a configured issuer of kind `people`
//! - output: [`Granted`]: an id token that nobody has verified yet, and a refresh token
//! - bound: each request by [`Fetcher`]; metadata is kept for `limits::KEYS_REFRESH`
//! - on failure: [`LoginError`]; nothing of a provider's answer but its error code is repeated

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oauth2::basic::{
    BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse, BasicTokenType,
};
use oauth2::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken,
    DeviceAuthorizationUrl, DeviceCodeErrorResponse, DeviceCodeErrorResponseType, EndpointMaybeSet,
    EndpointNotSet, EndpointSet, ErrorResponse, ExtraTokenFields, HttpRequest, HttpResponse,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope,
    StandardDeviceAuthorizationResponse, StandardRevocableToken,
    StandardTokenIntrospectionResponse, StandardTokenResponse, TokenResponse as _, TokenUrl,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::LoginError;
use crate::clock::SharedClock;
use crate::config::identity::{Issuer, Login};
use crate::config::url::HttpUrl;
use crate::identify::fetch::{FetchError, Fetcher, Request};
use crate::identify::jwks::KeyError;
use crate::identify::metadata::Metadata;
use crate::limits::{KEYS_REFRESH, MAX_DEVICE_LIFETIME, MAX_DEVICE_POLL};

/// What the token endpoint gives beside OAuth's own.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Extra {
    id_token: Option<String>,
}

impl ExtraTokenFields for Extra {}

impl std::fmt::Debug for Extra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Extra")
    }
}

type Tokens = StandardTokenResponse<Extra, BasicTokenType>;
type OAuth = oauth2::Client<
    BasicErrorResponse,
    Tokens,
    StandardTokenIntrospectionResponse<Extra, BasicTokenType>,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointMaybeSet,
    EndpointMaybeSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// What a provider gave. The id token is not verified.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) id_token: SecretString,
    pub(super) refresh: Option<SecretString>,
}

/// An authorization request, and what its answer is checked with.
#[derive(Debug)]
pub(super) struct CodeRequest {
    pub(super) url: String,
    pub(super) state: CsrfToken,
    pub(super) nonce: String,
    pub(super) redirect: String,
    pub(super) verifier: PkceCodeVerifier,
}

/// A device flow that waits for its approval.
#[derive(Debug)]
pub(super) struct DeviceRequest(StandardDeviceAuthorizationResponse);

impl DeviceRequest {
    pub(super) fn user_code(&self) -> &str {
        self.0.user_code().secret()
    }

    pub(super) fn url(&self) -> &str {
        self.0.verification_uri()
    }

    pub(super) fn complete(&self) -> Option<&str> {
        self.0.verification_uri_complete().map(|url| url.secret().as_str())
    }

    pub(super) fn lifetime(&self) -> Duration {
        self.0.expires_in().min(MAX_DEVICE_LIFETIME)
    }
}

/// A provider that lets people log in.
pub(super) struct Provider {
    pub(super) issuer: Arc<Issuer>,
    login: Login,
    secret: Option<SecretString>,
    fetcher: Arc<Fetcher>,
    clock: SharedClock,
    known: tokio::sync::Mutex<Option<(Instant, Arc<Metadata>)>>,
}

impl Provider {
    pub(super) fn new(
        issuer: Arc<Issuer>,
        login: Login,
        secret: Option<SecretString>,
        fetcher: Arc<Fetcher>,
        clock: SharedClock,
    ) -> Self {
        Self { issuer, login, secret, fetcher, clock, known: tokio::sync::Mutex::default() }
    }

    /// Begins an authorization code flow whose answer comes to `redirect`.
    pub(super) async fn begin_code(&self, redirect: &str) -> Result<CodeRequest, LoginError> {
        let (client, _) = self.client().await?;
        let client = client.set_redirect_uri(redirect_url(redirect)?);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let nonce = CsrfToken::new_random().into_secret();
        let request = client.authorize_url(CsrfToken::new_random);
        let request = request.map_err(|_absent| LoginError::NoEndpoint("authorization"))?;
        let mut request = request
            .add_scopes(self.scopes())
            .set_pkce_challenge(challenge)
            .add_extra_param("nonce", &nonce);
        if self.login.scopes.iter().any(|scope| scope == "offline_access") {
            // OpenID Connect Core section 11: without it the scope is ignored.
            request = request.add_extra_param("prompt", "consent");
        }
        let (url, state) = request.url();
        Ok(CodeRequest { url: url.into(), state, nonce, redirect: redirect.to_owned(), verifier })
    }

    /// Whether answers to authorization requests must name the issuer (RFC 9207).
    pub(super) async fn names_itself(&self) -> Result<bool, LoginError> {
        Ok(self.metadata().await?.flag("authorization_response_iss_parameter_supported"))
    }

    /// Exchanges a code.
    pub(super) async fn redeem(
        &self,
        code: String,
        redirect: &str,
        verifier: PkceCodeVerifier,
    ) -> Result<Granted, LoginError> {
        let (client, _) = self.client().await?;
        let client = client.set_redirect_uri(redirect_url(redirect)?);
        let request = client.exchange_code(AuthorizationCode::new(code));
        let http = Http(Arc::clone(&self.fetcher));
        granted(request.set_pkce_verifier(verifier).request_async(&http).await.map_err(refused)?)
    }

    /// Begins a device flow.
    pub(super) async fn begin_device(&self) -> Result<DeviceRequest, LoginError> {
        let (client, _) = self.client().await?;
        let request = client.exchange_device_code();
        let request = request.map_err(|_absent| LoginError::NoEndpoint("device authorization"))?;
        let http = Http(Arc::clone(&self.fetcher));
        let begun = request.add_scopes(self.scopes()).request_async(&http).await;
        let begun: StandardDeviceAuthorizationResponse = begun.map_err(refused)?;
        // Shown to people: it must be a place that may be asked at all.
        let shown = begun.verification_uri_complete().map(|url| url.secret().as_str());
        for url in [Some(begun.verification_uri().as_str()), shown].into_iter().flatten() {
            if !HttpUrl::parse(url).is_ok_and(|url| self.issuer.allows(&url)) {
                return Err(LoginError::Answer("its verification page is not https"));
            }
        }
        let code = begun.user_code().secret();
        if code.len() > 64 || !code.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(LoginError::Answer("its user code cannot be shown"));
        }
        Ok(DeviceRequest(begun))
    }

    /// Polls until somebody approves or denies, or the flow expires.
    pub(super) async fn poll(&self, device: &DeviceRequest) -> Result<Granted, LoginError> {
        let (client, _) = self.client().await?;
        let http = Http(Arc::clone(&self.fetcher));
        let polled = client
            .exchange_device_access_token(&device.0)
            .set_max_backoff_interval(MAX_DEVICE_POLL)
            .request_async(&http, tokio::time::sleep, Some(device.lifetime()));
        granted(polled.await.map_err(|error| match error {
            RequestTokenError::ServerResponse(answer) => device_refused(&answer),
            other => other_failure(other),
        })?)
    }

    /// Exchanges a refresh token; the provider may give a new one.
    pub(super) async fn refresh(&self, token: &SecretString) -> Result<Granted, LoginError> {
        let (client, _) = self.client().await?;
        let token = RefreshToken::new(token.expose_secret().to_owned());
        let http = Http(Arc::clone(&self.fetcher));
        granted(client.exchange_refresh_token(&token).request_async(&http).await.map_err(refused)?)
    }

    /// Tells the provider that a refresh token is of no use any more. `oauth2` would refuse the plain
    /// HTTP that tests on loopback use.
    pub(super) async fn revoke(&self, token: &SecretString) -> Result<(), LoginError> {
        let metadata = self.metadata().await?;
        let url = metadata.url("revocation_endpoint")?;
        let url = url.ok_or(LoginError::NoEndpoint("revocation"))?;
        let mut values =
            vec![("token", token.expose_secret()), ("token_type_hint", "refresh_token")];
        let mut basic = None;
        match &self.secret {
            Some(secret) if matches!(auth_type(&metadata, "revocation"), AuthType::BasicAuth) => {
                basic = Some(basic_value(&self.issuer.audience, secret));
            }
            Some(secret) => {
                values.push(("client_id", &self.issuer.audience));
                values.push(("client_secret", secret.expose_secret()));
            }
            None => values.push(("client_id", &self.issuer.audience)),
        }
        let mut request = Request::form(url.clone(), &values);
        if let Some(basic) = basic {
            request = request.authorized("Basic", &basic)?;
        }
        let status = self.fetcher.exchange(request).await?.status();
        if status.is_success() {
            return Ok(());
        }
        Err(FetchError::Status { host: url.host().to_owned(), status }.into())
    }

    fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.login.scopes.iter().map(|scope| Scope::new(scope.clone()))
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, KeyError> {
        let mut known = self.known.lock().await;
        let now = self.clock.mono();
        if let Some((at, metadata)) = known.as_ref()
            && now.saturating_duration_since(*at) < KEYS_REFRESH
        {
            return Ok(Arc::clone(metadata));
        }
        let metadata = Arc::new(Metadata::fetch(&self.issuer, &self.fetcher).await?);
        *known = Some((now, Arc::clone(&metadata)));
        Ok(metadata)
    }

    async fn client(&self) -> Result<(OAuth, Arc<Metadata>), LoginError> {
        let metadata = self.metadata().await?;
        let endpoint = |name| Ok::<_, KeyError>(metadata.url(name)?.map(|url| url.to_string()));
        let token = endpoint("token_endpoint")?.ok_or(LoginError::NoEndpoint("token"))?;
        let unfit = |_invalid| LoginError::Answer("one of its urls is not one");
        let auth = endpoint("authorization_endpoint")?.map(AuthUrl::new).transpose();
        let device = endpoint("device_authorization_endpoint")?;
        let device = device.map(DeviceAuthorizationUrl::new).transpose();
        let mut client = oauth2::Client::new(ClientId::new(self.issuer.audience.clone()))
            .set_token_uri(TokenUrl::new(token).map_err(unfit)?)
            .set_auth_uri_option(auth.map_err(unfit)?)
            .set_device_authorization_url_option(device.map_err(unfit)?)
            .set_auth_type(auth_type(&metadata, "token"));
        if let Some(secret) = &self.secret {
            client = client.set_client_secret(ClientSecret::new(secret.expose_secret().to_owned()));
        }
        Ok((client, metadata))
    }
}

/// Our fetcher as `oauth2` wants it. A type with a boxed future rather than a closure: with a closure
/// the compiler cannot see that the flows are `Send`.
struct Http(Arc<Fetcher>);

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = FetchError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, FetchError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let wrong = |_invalid| FetchError::Request {
                host: request.uri().host().unwrap_or_default().to_owned(),
                what: "it is not a valid request",
            };
            let url = HttpUrl::parse(&request.uri().to_string()).map_err(wrong)?;
            let answer = self.0.exchange(Request::made(url, request)).await?;
            Ok(answer.map(|body| body.to_vec()))
        })
    }
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").field("issuer", &self.issuer.name).finish_non_exhaustive()
    }
}

/// `client_secret_basic` is the default (OpenID Connect Discovery section 3).
fn auth_type(metadata: &Metadata, endpoint: &str) -> AuthType {
    let name = format!("{endpoint}_endpoint_auth_methods_supported");
    match metadata.lists(&name, "client_secret_basic") {
        Some(false) => AuthType::RequestBody,
        _ => AuthType::BasicAuth,
    }
}

/// RFC 6749 section 2.3.1: both parts are form-encoded before they are joined.
fn basic_value(id: &str, secret: &SecretString) -> SecretString {
    use base64::Engine as _;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let pair = format!("{}:{}", encode(id), encode(secret.expose_secret()));
    base64::engine::general_purpose::STANDARD.encode(pair).into()
}

fn redirect_url(text: &str) -> Result<RedirectUrl, LoginError> {
    RedirectUrl::new(text.to_owned()).map_err(|_invalid| LoginError::Redirect)
}

fn granted(tokens: Tokens) -> Result<Granted, LoginError> {
    let refresh = tokens.refresh_token().map(|token| token.secret().as_str().into());
    let id_token = tokens.extra_fields().id_token.as_deref();
    let id_token = id_token.ok_or(LoginError::Answer("it gave no id token"))?;
    Ok(Granted { id_token: id_token.into(), refresh })
}

fn refused(error: RequestTokenError<FetchError, BasicErrorResponse>) -> LoginError {
    match error {
        RequestTokenError::ServerResponse(answer) => match answer.error() {
            BasicErrorResponseType::Extension(code)
                if matches!(code.as_str(), "server_error" | "temporarily_unavailable") =>
            {
                LoginError::Answer("it cannot answer now")
            }
            BasicErrorResponseType::Extension(_) => LoginError::Refused("another error".to_owned()),
            code => LoginError::Refused(code.as_ref().to_owned()),
        },
        other => other_failure(other),
    }
}

fn device_refused(answer: &DeviceCodeErrorResponse) -> LoginError {
    match answer.error() {
        DeviceCodeErrorResponseType::AccessDenied => LoginError::Denied,
        DeviceCodeErrorResponseType::ExpiredToken => LoginError::Expired,
        DeviceCodeErrorResponseType::Basic(BasicErrorResponseType::Extension(_)) => {
            LoginError::Refused("another error".to_owned())
        }
        DeviceCodeErrorResponseType::Basic(code) => LoginError::Refused(code.as_ref().to_owned()),
        DeviceCodeErrorResponseType::AuthorizationPending
        | DeviceCodeErrorResponseType::SlowDown => LoginError::Answer("it cannot answer now"),
    }
}

fn other_failure<T: ErrorResponse>(error: RequestTokenError<FetchError, T>) -> LoginError {
    match error {
        RequestTokenError::Request(error) => error.into(),
        // The library's message may hold the answer.
        _ => LoginError::Answer("it is not what a token endpoint says"),
    }
}
