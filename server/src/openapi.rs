//! One list of routes makes both what a server answers and the OpenAPI document that says so: none can be in the one
//! and not in the other. The shapes of bodies are those of the types that serde reads and writes.

use axum::Router;
use axum::handler::Handler;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::{RecursiveTransform, Transform as _};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// Routes, and what is said of each.
pub(crate) struct Routes<S> {
    pub(crate) router: Router<S>,
    listed: Vec<Listed>,
}

struct Listed {
    method: Method,
    path: &'static str,
    operation: Operation,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub(crate) fn new() -> Routes<S> {
        Routes { router: Router::new(), listed: Vec::new() }
    }

    pub(crate) fn get<H: Handler<T, S>, T: 'static>(
        self,
        path: &'static str,
        handler: H,
        operation: Operation,
    ) -> Routes<S> {
        self.on(Method::GET, path, handler, operation)
    }

    pub(crate) fn post<H: Handler<T, S>, T: 'static>(
        self,
        path: &'static str,
        handler: H,
        operation: Operation,
    ) -> Routes<S> {
        self.on(Method::POST, path, handler, operation)
    }

    pub(crate) fn put<H: Handler<T, S>, T: 'static>(
        self,
        path: &'static str,
        handler: H,
        operation: Operation,
    ) -> Routes<S> {
        self.on(Method::PUT, path, handler, operation)
    }

    pub(crate) fn delete<H: Handler<T, S>, T: 'static>(
        self,
        path: &'static str,
        handler: H,
        operation: Operation,
    ) -> Routes<S> {
        self.on(Method::DELETE, path, handler, operation)
    }

    fn on<H: Handler<T, S>, T: 'static>(
        mut self,
        method: Method,
        path: &'static str,
        handler: H,
        operation: Operation,
    ) -> Routes<S> {
        let filter = MethodFilter::try_from(method.clone()).expect("a method that axum knows");
        self.router = self.router.route(path, on(filter, handler));
        self.listed.push(Listed { method, path, operation });
        self
    }
}

type Shape = fn(&mut SchemaGenerator) -> Schema;

fn shape<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// What is said of one route.
pub(crate) struct Operation {
    id: &'static str,
    words: &'static str,
    query: Option<Shape>,
    headers: Vec<(&'static str, Value, &'static str)>,
    body: Option<Shape>,
    takes_bytes: bool,
    answers: Vec<Answer>,
    refusals: Vec<u16>,
}

struct Answer {
    status: u16,
    words: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    contents: Vec<Content>,
}

pub(crate) enum Content {
    Json(Shape),
    /// Of this media type.
    Bytes(&'static str),
    /// A JSON value a line: what each is.
    Lines(Shape),
    /// Server-sent events: what the `data:` of each is, and the names of those that have one and say something else.
    Events(Shape, &'static [&'static str]),
}

impl Content {
    pub(crate) fn json<T: JsonSchema>() -> Content {
        Content::Json(shape::<T>)
    }

    pub(crate) fn lines<T: JsonSchema>() -> Content {
        Content::Lines(shape::<T>)
    }

    pub(crate) fn events<T: JsonSchema>(named: &'static [&'static str]) -> Content {
        Content::Events(shape::<T>, named)
    }
}

impl Operation {
    /// `id` is how a client made from the document calls it.
    pub(crate) fn new(id: &'static str, words: &'static str) -> Operation {
        Operation {
            id,
            words,
            query: None,
            headers: Vec::new(),
            body: None,
            takes_bytes: false,
            answers: Vec::new(),
            refusals: vec![500],
        }
    }

    /// The fields of `T` may stand behind the `?`.
    pub(crate) fn query<T: JsonSchema>(mut self) -> Operation {
        self.query = Some(T::json_schema);
        self.refusing(&[422])
    }

    pub(crate) fn body<T: JsonSchema>(mut self) -> Operation {
        self.body = Some(shape::<T>);
        self.refusing(&[400, 413, 422])
    }

    /// The body is no JSON.
    pub(crate) fn body_of_bytes(mut self) -> Operation {
        self.takes_bytes = true;
        self.refusing(&[400, 413, 422])
    }

    /// Positions are `T`.
    pub(crate) fn resumable<T: JsonSchema>(mut self) -> Operation {
        let words = "The id of the last event that was seen: what follows it is sent";
        let mut schema = T::json_schema(&mut settings().into_generator());
        bound(&mut schema);
        self.headers.push(("Last-Event-ID", schema.into(), words));
        self.refusing(&[422])
    }

    pub(crate) fn ranged(mut self) -> Operation {
        let words = "One range of bytes, such as `bytes=0-999`";
        self.headers.push(("Range", json!({"type": "string"}), words));
        self.refusing(&[416])
    }

    pub(crate) fn answering(
        mut self,
        status: u16,
        words: &'static str,
        contents: impl Into<Vec<Content>>,
    ) -> Operation {
        self.answers.push(Answer { status, words, headers: Vec::new(), contents: contents.into() });
        self
    }

    /// A header of the answer that was named last.
    pub(crate) fn telling(mut self, header: &'static str, words: &'static str) -> Operation {
        self.answers.last_mut().expect("an answer comes first").headers.push((header, words));
        self
    }

    pub(crate) fn refusing(mut self, statuses: &[u16]) -> Operation {
        self.refusals.extend(statuses);
        self
    }
}

/// The document of one server.
pub(crate) struct Document {
    title: &'static str,
    words: &'static str,
    security_schemes: Value,
    generator: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Document {
    pub(crate) fn new(title: &'static str, words: &'static str, security_schemes: Value) -> Document {
        let generator = settings().for_serialize().into_generator();
        Document { title, words, security_schemes, generator, paths: Map::new() }
    }

    /// Adds routes that need one of these schemes, and are refused as `refusals` without.
    pub(crate) fn with<S>(mut self, routes: &Routes<S>, schemes: &[&str], refusals: &[u16]) -> Document {
        for Listed { method, path, operation } in &routes.listed {
            let mut told = self.operation(path, operation, refusals);
            told["security"] = schemes.iter().map(|scheme| json!({*scheme: []})).collect();
            let path = self.paths.entry(*path).or_insert_with(|| json!({}));
            path[method.as_str().to_ascii_lowercase()] = told;
        }
        self
    }

    pub(crate) fn json(mut self) -> Bytes {
        let schemas = self.generator.take_definitions(true);
        let document = json!({
            "openapi": "3.1.0",
            "info": {"title": self.title, "description": self.words, "version": env!("CARGO_PKG_VERSION")},
            "paths": self.paths,
            "components": {"schemas": schemas, "securitySchemes": self.security_schemes},
        });
        Bytes::from(serde_json::to_vec(&document).expect("a document is strings and numbers"))
    }

    fn operation(&mut self, path: &str, operation: &Operation, refusals: &[u16]) -> Value {
        let mut parameters: Vec<Value> = names_in(path).map(path_parameter).collect();
        let headers = operation.headers.iter().map(|(name, schema, words)| {
            json!({"name": name, "in": "header", "schema": schema, "description": words})
        });
        parameters.extend(headers);
        // What is read is inline: where it is also written, a field more is always there.
        let mut reading =
            settings().for_deserialize().with(|read| read.inline_subschemas = true).into_generator();
        parameters
            .extend(operation.query.map(|query| query_parameters(query(&mut reading))).unwrap_or_default());
        let mut responses = Map::new();
        for status in operation.refusals.iter().chain(refusals) {
            responses.insert(status.to_string(), self.refusal(*status));
        }
        for answer in &operation.answers {
            responses.insert(answer.status.to_string(), self.answer(answer));
        }
        let mut told = json!({
            "operationId": operation.id,
            "summary": operation.words,
            "parameters": parameters,
            "responses": responses,
        });
        if let Some(body) = operation.body {
            let mut schema = body(&mut reading);
            bound(&mut schema);
            told["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        if operation.takes_bytes {
            told["requestBody"] = json!({"required": true, "content": {"application/octet-stream": {}}});
        }
        told
    }

    /// In OpenAPI 3.1 the schema of a stream is that of one of its items.
    fn event(&mut self, shape: Shape, named: &[&str]) -> Value {
        let data = json!({
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": shape(&mut self.generator),
        });
        let id = json!({"type": "string", "pattern": "^[0-9]+$"});
        let plain = json!({
            "type": "object",
            "properties": {"id": id, "event": {"const": "message"}, "data": data},
            "required": ["id", "data"],
        });
        if named.is_empty() {
            return plain;
        }
        let data = json!({"type": "string", "contentMediaType": "application/json"});
        let named = json!({
            "type": "object",
            "properties": {"id": id, "event": {"enum": named}, "data": data},
            "required": ["event", "data"],
        });
        json!({"anyOf": [plain, named]})
    }

    fn refusal(&mut self, status: u16) -> Value {
        let schema = shape::<common::Problem>(&mut self.generator);
        json!({"description": refusal_words(status), "content": {"application/json": {"schema": schema}}})
    }

    fn answer(&mut self, answer: &Answer) -> Value {
        let headers: Map<String, Value> = (answer.headers.iter())
            .map(|(name, words)| {
                let told = json!({"description": words, "schema": {"type": "string"}, "required": true});
                ((*name).to_owned(), told)
            })
            .collect();
        let contents: Map<String, Value> = (answer.contents.iter())
            .map(|content| match content {
                Content::Json(shape) => {
                    ("application/json".to_owned(), json!({"schema": shape(&mut self.generator)}))
                }
                Content::Bytes(kind) => ((*kind).to_owned(), json!({})),
                Content::Lines(shape) => {
                    ("application/x-ndjson".to_owned(), json!({"schema": shape(&mut self.generator)}))
                }
                Content::Events(shape, named) => {
                    ("text/event-stream".to_owned(), json!({"schema": self.event(*shape, named)}))
                }
            })
            .collect();
        let mut told = json!({"description": answer.words});
        if !headers.is_empty() {
            told["headers"] = headers.into();
        }
        if !contents.is_empty() {
            told["content"] = contents.into();
        }
        told
    }
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    })
}

/// Schemars says how wide a number is by its format only.
fn bound(schema: &mut Schema) {
    let mut one = |schema: &mut Schema| {
        let most = match schema.get("format").and_then(Value::as_str) {
            Some("uint32") => u64::from(u32::MAX),
            Some("uint64") => u64::MAX,
            Some(_) | None => return,
        };
        if schema.get("maximum").is_none() {
            schema.insert("maximum".to_owned(), most.into());
        }
    };
    RecursiveTransform(&mut one).transform(schema);
}

/// What stands in braces.
fn names_in(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn path_parameter(name: &str) -> Value {
    let (schema, words) = match name {
        "run" => (json!({"type": "integer", "minimum": 1, "maximum": u32::MAX}), "A run's number"),
        "task" => (inline::<common::TaskId>(), "A task of that run"),
        "id" => (inline::<common::StepId>(), "A step's id"),
        "number" => {
            (json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}), "Its place, counted from 0")
        }
        "step" => (
            json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            "A step of the attempt, counted from 1",
        ),
        "file" => (json!({"type": "string", "minLength": 1}), "A file of the page"),
        other => unreachable!("nobody has said what {{{other}}} is in a path"),
    };
    json!({"name": name, "in": "path", "required": true, "schema": schema, "description": words})
}

fn inline<T: JsonSchema>() -> Value {
    let mut schema = T::json_schema(&mut settings().into_generator());
    schema.remove("description");
    schema.into()
}

/// Each field of an object. Null is no value of a query: what is not said is left out.
fn query_parameters(mut object: Schema) -> Vec<Value> {
    bound(&mut object);
    let properties = object.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let required = object.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let parameter = |(name, mut schema): (String, Value)| {
        let is_required = required.iter().any(|required| *required == name);
        if let Some(kind) = schema.get("type").and_then(|types| types.as_array()?.first()).cloned() {
            schema["type"] = kind;
        }
        let mut told = json!({"name": name, "in": "query"});
        if let Some(words) = schema.as_object_mut().and_then(|schema| schema.remove("description")) {
            told["description"] = words;
        }
        if is_required {
            told["required"] = true.into();
        }
        told["schema"] = schema;
        told
    };
    properties.into_iter().map(parameter).collect()
}

fn refusal_words(status: u16) -> &'static str {
    match status {
        400 => "The body broke off",
        401 => "No token and no session, or not the right one",
        403 => "A browser asked, and not from the boss's own page",
        404 => "There is nothing of that name",
        409 => "This contradicts how things stand",
        410 => "It is gone, and does not come again",
        413 => "The body is too long",
        415 => "The request does not say that its body is JSON",
        416 => "There are no such bytes",
        421 => "The boss is not known by the name that the request uses",
        422 => "This cannot be meant; the error names what is at fault",
        500 => "Something of ours is broken; the log says more",
        503 => "Not now; the hint says what to wait for",
        other => unreachable!("nobody has said what {other} means"),
    }
}

/// The route that tells of all routes, itself among them.
pub(crate) fn operation() -> Operation {
    Operation::new("openapi", "This document").answering(
        200,
        "OpenAPI 3.1",
        [Content::json::<Map<String, Value>>()],
    )
}

pub(crate) fn response(document: &Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document.clone()).into_response()
}
