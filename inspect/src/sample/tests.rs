use super::*;
use crate::engine::Engine;
use crate::known::Known;
use crate::own;

const SEED: u64 = 20;

#[test]
fn every_rule_finds_what_is_made_from_it() {
    let mut wrong = Vec::new();
    for definition in own::definitions().unwrap() {
        let engine = Engine::new(vec![definition.rule().unwrap()]).unwrap();
        let mut random = Random::new(SEED);
        for place in Surroundings::ALL.iter().cycle().take(8) {
            let Some(sample) = secret(&definition, &mut random, *place) else {
                wrong.push(format!("{}: no sample", definition.id));
                break;
            };
            let found = engine.find(sample.text.as_bytes(), &Known::default());
            let covers = |range: &Range<usize>| {
                range.start <= sample.secret.start && sample.secret.end <= range.end
            };
            if !found.iter().any(|one| covers(&one.span) || definition.value.is_none()) {
                let spans: Vec<_> =
                    found.iter().map(|one| sample.text.get(one.span.clone())).collect();
                wrong.push(format!("{}: {:?} {spans:?}", definition.id, sample.text));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} {wrong:#?}", wrong.len());
}

#[test]
fn no_rule_finds_what_only_looks_like_it() {
    let mut wrong = Vec::new();
    for definition in own::definitions().unwrap() {
        let engine = Engine::new(vec![definition.rule().unwrap()]).unwrap();
        let texts = harmless(&definition, &mut Random::new(SEED));
        assert!(definition.value.is_none() || texts.len() >= 16, "{}", definition.id);
        let is_found = |text: &&String| !engine.find(text.as_bytes(), &Known::default()).is_empty();
        wrong
            .extend(texts.iter().find(is_found).map(|text| format!("{}: {text:?}", definition.id)));
    }
    assert!(wrong.is_empty(), "{} {wrong:#?}", wrong.len());
}

#[test]
fn the_same_seed_draws_the_same() {
    let definition = own::definitions().unwrap().remove(0);
    let draw = |seed| secret(&definition, &mut Random::new(seed), Surroundings::Env).unwrap().text;
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}
