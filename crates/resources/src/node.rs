//! YAML and JSON text as a tree that remembers lines. Nothing here knows what the documents mean.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Options, Spanned};

/// A value and where it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// 1-based; 0 when unknown.
    pub line: usize,
    pub tree: Tree,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Tree {
    #[default]
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(String),
    List(Vec<Node>),
    /// In the order of the text; keys are unique.
    Map(Vec<(String, Node)>),
}

impl Tree {
    /// The kind of value, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Tree::Null => "nothing",
            Tree::Bool(_) => "a boolean",
            Tree::Integer(_) | Tree::Float(_) => "a number",
            Tree::String(_) => "a string",
            Tree::List(_) => "a list",
            Tree::Map(_) => "a mapping",
        }
    }
}

impl Node {
    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.tree {
            Tree::Map(entries) => entries
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, node)| node),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match &self.tree {
            Tree::String(text) => Some(text),
            _ => None,
        }
    }

    fn shift_lines(&mut self, by: usize) {
        if self.line > 0 {
            self.line += by;
        }
        match &mut self.tree {
            Tree::List(items) => items.iter_mut().for_each(|n| n.shift_lines(by)),
            Tree::Map(entries) => entries.iter_mut().for_each(|(_, n)| n.shift_lines(by)),
            _ => {}
        }
    }
}

/// Text that is not YAML or JSON, or goes beyond the bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// 0 when unknown.
    pub line: usize,
    pub message: String,
}

/// Largest text read at all. A list of 10,000 Pods as the API prints them is about that.
pub const MAX_TEXT: usize = 64 << 20;

/// Bounds against documents made to exhaust: far above what configuration needs, far below what hurts.
fn options() -> Options {
    let mut options = Options::default();
    if let Some(budget) = &mut options.budget {
        budget.max_depth = 64;
        budget.flow_nesting_limit = 64;
        budget.max_events = 4_000_000;
        budget.max_nodes = 2_000_000;
        budget.max_aliases = 1_000;
        budget.max_anchors = 1_000;
        budget.max_merge_keys = 1_000;
        budget.max_recorded_anchor_events = 100_000;
    }
    options.alias_limits.max_total_replayed_events = 100_000;
    options.alias_limits.max_replay_stack_depth = 16;
    options
}

/// Runs a parser where it has stack enough for the deepest document allowed: serde's visitors, one inside the other, take up to
/// 60 KiB a level in debug builds, more than the 2 MiB of an ordinary thread for 64 levels. Untouched stack costs nothing.
pub fn with_stack<T: Send>(parse: impl FnOnce() -> T + Send) -> Result<T, SyntaxError> {
    let failed = |message: &str| SyntaxError {
        line: 0,
        message: message.to_owned(),
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(16 << 20)
            .spawn_scoped(scope, parse)
            .map_err(|error| failed(&format!("cannot start the parser: {error}")))?
            .join()
            .map_err(|_| failed("the parser failed"))
    })
}

/// Reads one YAML document that begins at `first_line` of its file. Empty is [`Tree::Null`].
pub fn parse_yaml(text: &str, first_line: usize) -> Result<Node, SyntaxError> {
    match serde_saphyr::from_str_with_options::<Parsed<true>>(text, options()) {
        Ok(Parsed(mut node)) => {
            node.shift_lines(first_line - 1);
            Ok(node)
        }
        Err(error) => {
            let error = error.without_snippet();
            let line = error.location().map_or(0, |l| l.line() as usize);
            let line = if line == 0 {
                first_line
            } else {
                line + first_line - 1
            };
            Err(SyntaxError {
                line,
                message: plain_message(&error.to_string()),
            })
        }
    }
}

/// The parser's message without the position, which counts from the document's first line, and without advice to programmers.
fn plain_message(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.split(" at line ").next().unwrap_or(line);
    line.split(", set ").next().unwrap_or(line).to_owned()
}

/// Reads the JSON values of a text, one after another.
pub fn parse_json_stream(text: &str) -> Vec<Result<Node, SyntaxError>> {
    serde_json::Deserializer::from_str(text)
        .into_iter::<Parsed<false>>()
        .map(|item| {
            item.map(|parsed| parsed.0).map_err(|e| SyntaxError {
                line: e.line(),
                message: e.to_string(),
            })
        })
        .collect()
}

/// The documents of a YAML stream, each with the line on which it begins. A line that starts with `---` or `...` ends a
/// document even inside a block scalar, so that one broken document cannot swallow the next.
pub fn split_documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let bare = line.trim_end_matches(['\n', '\r']);
        let marks = |mark: &str| {
            bare.strip_prefix(mark)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
        };
        if marks("---") {
            documents.push((start_line, &text[start..offset]));
            // The marker stays with its document: content may follow on its line.
            (start, start_line) = (offset, index + 1);
        } else if marks("...") {
            documents.push((start_line, &text[start..offset]));
            (start, start_line) = (offset + line.len(), index + 2);
        }
        offset += line.len();
    }
    documents.push((start_line, &text[start..]));
    documents.retain(|(_, document)| !is_blank(document));
    documents
}

/// Nothing but markers, comments and space.
fn is_blank(document: &str) -> bool {
    document.lines().all(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        line.is_empty() || line.starts_with('#')
    })
}

impl From<&serde_json::Value> for Node {
    fn from(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        let tree = match value {
            Value::Null => Tree::Null,
            Value::Bool(b) => Tree::Bool(*b),
            Value::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(i), _) => Tree::Integer(i.into()),
                (None, Some(u)) => Tree::Integer(u.into()),
                (None, None) => Tree::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(s) => Tree::String(s.clone()),
            Value::Array(items) => Tree::List(items.iter().map(Node::from).collect()),
            Value::Object(entries) => Tree::Map(
                entries
                    .iter()
                    .map(|(k, v)| (k.clone(), Node::from(v)))
                    .collect(),
            ),
        };
        Node { line: 0, tree }
    }
}

/// What is read: with `LINES` from YAML's parser, which knows them, otherwise from JSON's.
struct Parsed<const LINES: bool>(Node);

impl<'de, const LINES: bool> Deserialize<'de> for Parsed<LINES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if LINES {
            let spanned = Spanned::<ParsedTree<LINES>>::deserialize(deserializer)?;
            return Ok(Parsed(Node {
                line: spanned.referenced.line() as usize,
                tree: spanned.value.0,
            }));
        }
        ParsedTree::<LINES>::deserialize(deserializer).map(|tree| {
            Parsed(Node {
                line: 0,
                tree: tree.0,
            })
        })
    }
}

struct ParsedTree<const LINES: bool>(Tree);

impl<'de, const LINES: bool> Deserialize<'de> for ParsedTree<LINES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(TreeVisitor::<LINES>)
            .map(ParsedTree)
    }
}

struct TreeVisitor<const LINES: bool>;

impl<'de, const LINES: bool> Visitor<'de> for TreeVisitor<LINES> {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Tree, E> {
        Ok(Tree::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(Parsed(item)) = access.next_element::<Parsed<LINES>>()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some((key, line)) = next_key::<LINES, A>(&mut access)? {
            let Parsed(mut value) = access.next_value::<Parsed<LINES>>()?;
            // A block's own first line is the one after its key; the key is where a person looks.
            value.line = line;
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
            }
            entries.push((key, value));
        }
        Ok(Tree::Map(entries))
    }
}

/// The next key of a mapping and its line.
fn next_key<'de, const LINES: bool, A: MapAccess<'de>>(
    access: &mut A,
) -> Result<Option<(String, usize)>, A::Error> {
    if LINES {
        let key = access.next_key::<Spanned<Key>>()?;
        return Ok(key.map(|key| (key.value.0, key.referenced.line() as usize)));
    }
    Ok(access.next_key::<Key>()?.map(|key| (key.0, 0)))
}

/// A mapping's key. Kubernetes turns numbers and booleans into their text, so `80: x` and `"80": x` are the same.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ParsedTree::<false>::deserialize(deserializer).and_then(|tree| match tree.0 {
            Tree::String(text) => Ok(Key(text)),
            Tree::Integer(number) => Ok(Key(number.to_string())),
            Tree::Bool(value) => Ok(Key(value.to_string())),
            other => Err(D::Error::custom(format_args!("{} as a key", other.kind()))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Tree, parse_json_stream, parse_yaml, split_documents, with_stack};

    #[test]
    fn remembers_lines() {
        let node = parse_yaml(
            "---\na:\n  b: [1, x]\nc: null\nd: 1.5\ne: true\n80: x\n",
            10,
        )
        .unwrap();
        assert_eq!(node.get("a").unwrap().get("b").unwrap().line, 12);
        assert_eq!(node.get("c").unwrap().tree, Tree::Null);
        assert_eq!(node.get("d").unwrap().tree, Tree::Float(1.5));
        assert_eq!(node.get("e").unwrap().tree, Tree::Bool(true));
        assert_eq!(node.get("80").unwrap().as_str(), Some("x"));
    }

    #[test]
    fn reads_json_with_tabs_and_several_values() {
        let values = parse_json_stream(
            "{\n\t\"a\": [1, null, {\"b\": -2.5}]}\n{\"c\": 18446744073709551615}",
        );
        assert_eq!(values.len(), 2);
        assert!(
            matches!(&values[0].as_ref().unwrap().get("a").unwrap().tree, Tree::List(l) if l.len() == 3)
        );
        assert_eq!(
            values[1].as_ref().unwrap().get("c").unwrap().tree,
            Tree::Integer(u64::MAX.into())
        );
        assert!(parse_json_stream("{\"a\": 1, \"a\": 2}")[0].is_err());
    }

    #[test]
    fn syntax_errors_have_lines() {
        assert!((6..=7).contains(&parse_yaml("a: 1\nb: [\n", 5).unwrap_err().line));
        assert!(
            parse_yaml("a: 1\na: 2\n", 1)
                .unwrap_err()
                .message
                .contains("a")
        );
    }

    #[test]
    fn splits_at_markers() {
        let text = "# c\n---\na: |\n  x\n--- # second\nb: 1\n...\nc: 1\n---\n";
        let lines: Vec<_> = split_documents(text)
            .iter()
            .map(|(line, _)| *line)
            .collect();
        assert_eq!(lines, [2, 5, 8]);
    }

    #[test]
    fn bounds_hold() {
        with_stack(check_bounds).unwrap();
    }

    fn check_bounds() {
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                    d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
        assert!(parse_yaml(bomb, 1).is_err());
        assert!(parse_yaml(&"[".repeat(100_000), 1).is_err());
        assert!(parse_yaml(&"- ".repeat(100_000), 1).is_err());
        assert!(parse_json_stream(&"[".repeat(100_000))[0].is_err());
    }
}
