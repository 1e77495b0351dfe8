//! Header mutations (`HeaderValueOption` and lists of names to remove).
//!
//! Envoy expands `%COMMAND%` in values. The model's values are literal, so a percent sign travels as `%%`.

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};

use super::Dialect;
use super::field::{Fault, Read, Within, each, read_bool, refuse, required};
use super::matching::header_name;
use crate::model::route::{AppendAction, HeaderAdd, HeaderMutations};

/// What to add, what to remove.
pub(super) type Lists = (Vec<HeaderValueOption>, Vec<String>);

pub(super) fn write(of: &HeaderMutations, dialect: &Dialect) -> Lists {
    let HeaderMutations { remove, add } = of;
    // Envoy refuses to touch these by mutation; `host_rewrite` carries the authority instead.
    let allowed = |name: &str| *dialect == Dialect::Tasuki || !is_authority(name);
    let add = add
        .iter()
        .filter(|a| allowed(&a.name))
        .map(option)
        .collect();
    let remove = remove
        .iter()
        .filter(|name| allowed(name))
        .cloned()
        .collect();
    (add, remove)
}

/// `:authority` and its HTTP/1 name.
pub(super) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

fn option(of: &HeaderAdd) -> HeaderValueOption {
    let HeaderAdd {
        name,
        value,
        append,
    } = of;
    let action = match append {
        AppendAction::AppendIfExistsOrAdd => HeaderAppendAction::AppendIfExistsOrAdd,
        AppendAction::AddIfAbsent => HeaderAppendAction::AddIfAbsent,
        AppendAction::OverwriteIfExistsOrAdd => HeaderAppendAction::OverwriteIfExistsOrAdd,
        AppendAction::OverwriteIfExists => HeaderAppendAction::OverwriteIfExists,
    };
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.clone(),
            value: value.replace('%', "%%"),
            raw_value: Vec::new(),
        }),
        append_action: action as i32,
        keep_empty_value: true,
        ..HeaderValueOption::default()
    }
}

pub(super) fn read(
    side: &str,
    add: Vec<HeaderValueOption>,
    remove: Vec<String>,
) -> Read<HeaderMutations> {
    let add = each(&format!("{side}_headers_to_add"), add, read_option)?;
    let remove = each(&format!("{side}_headers_to_remove"), remove, header_name)?;
    Ok(HeaderMutations {
        remove,
        add: add.into_iter().flatten().collect(),
    })
}

/// `None` where Envoy does nothing: an empty value that is not to be kept.
#[allow(deprecated, reason = "the field must be named, to be refused")]
fn read_option(option: HeaderValueOption) -> Read<Option<HeaderAdd>> {
    let HeaderValueOption {
        header,
        append,
        append_action,
        keep_empty_value,
    } = option;
    let HeaderValue {
        key,
        value,
        raw_value,
    } = required("header", header)?;
    let value = match (value.is_empty(), raw_value) {
        (_, raw) if raw.is_empty() => value,
        (true, raw) => String::from_utf8(raw).map_err(|_| Fault::new("raw_value", "not UTF-8"))?,
        (false, _) => return Err(Fault::new("raw_value", "set together with `value`")),
    };
    let name = header_name(key).within("header")?;
    if name.starts_with(':') && name != ":authority" {
        return Err(Fault::new(
            "header.key",
            format!("`{name}` may not be changed"),
        ));
    }
    let value = literal(&value)?;
    if http::HeaderValue::from_str(&value).is_err() {
        return Err(Fault::new("header.value", "not a header value"));
    }
    let append = match (
        read_bool(append),
        HeaderAppendAction::try_from(append_action),
    ) {
        (Some(true), _) => AppendAction::AppendIfExistsOrAdd,
        (Some(false), _) => AppendAction::OverwriteIfExistsOrAdd,
        (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => AppendAction::AppendIfExistsOrAdd,
        (None, Ok(HeaderAppendAction::AddIfAbsent)) => AppendAction::AddIfAbsent,
        (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => {
            AppendAction::OverwriteIfExistsOrAdd
        }
        (None, Ok(HeaderAppendAction::OverwriteIfExists)) => AppendAction::OverwriteIfExists,
        (None, Err(_)) => {
            refuse!(append_action);
            AppendAction::AppendIfExistsOrAdd
        }
    };
    Ok(
        (keep_empty_value || !value.is_empty()).then_some(HeaderAdd {
            name,
            value,
            append,
        }),
    )
}

/// Undoes `%%`; a command is refused.
fn literal(value: &str) -> Read<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        if c == '%' && chars.next() != Some('%') {
            return Err(Fault::new("header.value", "`%` commands are not honoured"));
        }
        out.push(c);
    }
    Ok(out)
}
