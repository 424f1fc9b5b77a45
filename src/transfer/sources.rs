//! Lists of images in files that were written for something else: shopping lists, Kubernetes manifests, compose files.
//!
//! YAML is read as a stream of events: no tree is built, so that no alias can multiply it.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser};

use crate::config::Wish;
use crate::oci::ImageError;

/// Why a file gives no list.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A line names no image.
    #[error("line {0}: {1}")]
    Line(usize, ImageError),
    /// It is not YAML.
    #[error("it is not YAML: {0}")]
    Yaml(String),
    /// An image's name depends on something that is not known here.
    #[error("{0:?} names an image by what only another tool fills in; give this command its output, as of: {1}")]
    Template(String, &'static str),
    /// A variable without a value.
    #[error("{image:?}: the variable {name} is not set, and has no default")]
    Variable {
        /// What the file says.
        image: String,
        /// The variable.
        name: String,
    },
    /// Not an image.
    #[error(transparent)]
    Reference(#[from] ImageError),
}

/// One image or pattern a line; `#` begins a comment.
pub fn list(text: &str) -> Result<Vec<Wish>, SourceError> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.split(" #").next().unwrap_or_default().trim()));
    let named = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    named.map(|(at, line)| line.parse().map_err(|error| SourceError::Line(at, error))).collect()
}

/// The images of Kubernetes manifests: every `image` of every document, whatever its kind.
pub fn manifests(text: &str) -> Result<Vec<Wish>, SourceError> {
    let mut wishes = Vec::new();
    for image in images(text)? {
        if image.contains("{{") || image.contains("${") {
            return Err(SourceError::Template(image, "helm template, kustomize build"));
        }
        wishes.push(image.parse()?);
    }
    Ok(wishes)
}

/// The images of a compose file, its variables filled in by `variable`.
pub fn compose(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Wish>, SourceError> {
    let filled = images(text)?.into_iter().map(|image| fill_in(&image, variable));
    filled.map(|image| Ok(image?.parse()?)).collect()
}

/// Every scalar under a key `image`, and `reference` right below one (volumes of the kind image), in order.
fn images(text: &str) -> Result<Vec<String>, SourceError> {
    /// Where the reader is: in a sequence, or in a mapping, before a key or before the value of one.
    enum Place {
        Sequence,
        Key { below_image: bool },
        Value { below_image: bool, key: String },
    }
    let mut places: Vec<Place> = Vec::new();
    let mut anchors: HashMap<usize, String> = HashMap::new();
    let mut found = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| SourceError::Yaml(error.to_string()))?;
        let scalar = match &event {
            Event::Scalar(value, _, anchor, _) => {
                let value = value.to_string();
                if *anchor > 0 {
                    anchors.insert(*anchor, value.clone());
                }
                Some(value)
            }
            Event::Alias(anchor) => Some(anchors.get(anchor).cloned().unwrap_or_default()),
            _ => None,
        };
        let starts = matches!(event, Event::MappingStart(..) | Event::SequenceStart(..));
        if matches!(event, Event::MappingEnd | Event::SequenceEnd) {
            places.pop();
            continue;
        }
        if scalar.is_none() && !starts {
            continue;
        }
        let mut is_image = false;
        if let Some(place) = places.last_mut() {
            match place {
                Place::Sequence => {}
                // A key that is no scalar names no image.
                Place::Key { below_image } => {
                    *place = Place::Value { below_image: *below_image, key: scalar.clone().unwrap_or_default() };
                    if scalar.is_some() {
                        continue;
                    }
                }
                Place::Value { below_image, key } => {
                    is_image = key == "image";
                    let names_one = is_image || (*below_image && key == "reference");
                    found.extend(
                        scalar
                            .as_ref()
                            .filter(|value| names_one && !value.is_empty() && *value != "~" && *value != "null")
                            .cloned(),
                    );
                    *place = Place::Key { below_image: *below_image };
                }
            }
        }
        match event {
            Event::MappingStart(..) => places.push(Place::Key { below_image: is_image }),
            Event::SequenceStart(..) => places.push(Place::Sequence),
            _ => {}
        }
    }
    let mut known = std::collections::HashSet::new();
    found.retain(|image| known.insert(image.clone()));
    Ok(found)
}

/// Compose's `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME-default}`, `$$`.
fn fill_in(image: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, SourceError> {
    let mut out = String::new();
    let mut rest = image;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (inside, after) = match after.strip_prefix('{') {
            _ if after.starts_with('$') => {
                out.push('$');
                rest = &after[1..];
                continue;
            }
            Some(braced) => braced.split_once('}').unwrap_or((braced, "")),
            None => after.split_at(after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len())),
        };
        let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
        let (name, modifier) = inside.split_at(end);
        let set = variable(name);
        let default = modifier.strip_prefix(":-").or_else(|| modifier.strip_prefix('-'));
        let value = match default {
            Some(default) if modifier.starts_with(':') => set.filter(|value| !value.is_empty()).unwrap_or(default.to_owned()),
            Some(default) => set.unwrap_or(default.to_owned()),
            None => set.ok_or_else(|| SourceError::Variable { image: image.to_owned(), name: name.to_owned() })?,
        };
        out.push_str(&value);
        rest = after;
    }
    Ok(out + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wishes: Result<Vec<Wish>, SourceError>) -> Vec<String> {
        wishes.unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_shopping_list() {
        let text = "# comment\n\nalpine:3  # asked for 3 times\nregistry.k8s.io/pause:3.*\n";
        assert_eq!(names(list(text)), ["docker.io/library/alpine:3", "registry.k8s.io/pause:3.*"]);
        assert!(list("a b\n").unwrap_err().to_string().starts_with("line 1:"));
    }

    #[test]
    fn images_of_kubernetes() {
        let text = r#"
apiVersion: v1
kind: Pod
metadata: {name: image}
spec:
  initContainers: [{name: a, image: "quay.io/a/b:1"}]
  containers:
  - name: image
    image: &img nginx
  - {name: c, image: *img}
  volumes:
  - name: v
    image: {reference: ghcr.io/x/y:2, pullPolicy: Always}
---
kind: List
items:
- spec: {template: {spec: {containers: [{image: busybox:1}]}}}
"#;
        let expected = ["quay.io/a/b:1", "docker.io/library/nginx:latest", "ghcr.io/x/y:2", "docker.io/library/busybox:1"];
        assert_eq!(names(manifests(text)), expected);
        assert!(matches!(manifests("image: '{{ .Values.image }}'"), Err(SourceError::Template(..))));
        assert!(matches!(manifests("a: [b"), Err(SourceError::Yaml(_))));
    }

    #[test]
    fn images_of_compose_with_their_variables() {
        let variable = |name: &str| (name == "TAG").then(|| "7".to_owned());
        let text =
            "services:\n  a: {image: \"redis:${TAG}\"}\n  b: {image: 'x/y:${OTHER:-1}'}\n  c: {build: .}\n  d: {image: z:$TAG}\n";
        assert_eq!(names(compose(text, &variable)), ["docker.io/library/redis:7", "docker.io/x/y:1", "docker.io/library/z:7"]);
        assert!(matches!(compose("image: a:${NOPE}", &variable), Err(SourceError::Variable { .. })));
    }

    #[test]
    fn an_alias_bomb_costs_nothing() {
        let mut text = String::from("a0: &a0 [x]\n");
        for n in 1..60 {
            text += &format!("a{n}: &a{n} [*a{p}, *a{p}, *a{p}]\n", p = n - 1);
        }
        assert_eq!(names(manifests(&text)), Vec::<String>::new());
    }
}
