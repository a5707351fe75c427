//! When a question is doubtful: another answer to what it means would change who is asked, and the classifier is not sure
//! enough that there is no other.
//!
//! Pure. Whether somebody is asked about it then is dispatch's business.
//!
//! With the numbers below, 10 of the 68 labelled phrases of the test of `meaning` are doubtful, and the one that is
//! taken for something wrong is among them. Of CLINC150's test queries, with five texts a class, 30 % are.

/// From this probability on the guess stands, whatever else there is.
const CERTAIN: f32 = 0.5;

/// A speciality less probable than this is not what was meant: nobody need be asked whether it was.
const POSSIBLE: f32 = 0.04;

/// Something that the question may be about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contender {
    /// The probability that it is.
    pub probability: f32,
    /// Whether somebody is made for it, so that it makes a difference.
    pub special: bool,
}

/// Whether it is doubtful what a question means of which these two are the most probable.
#[must_use]
pub fn is_doubtful(best: Contender, rival: Option<Contender>) -> bool {
    let special = [Some(best), rival].into_iter().flatten().filter(|one| one.special);
    let likeliest = special.map(|one| one.probability).fold(0.0, f32::max);
    best.probability < CERTAIN && likeliest >= POSSIBLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_doubtful_where_another_answer_changes_what_is_done() {
        let one = |probability, special| Contender { probability, special };
        for (row, (best, rival, doubtful)) in [
            (one(0.9, true), Some(one(0.05, true)), false),
            (one(0.5, true), None, false),
            (one(0.49, true), None, true),
            (one(0.25, true), Some(one(0.2, true)), true),
            (one(0.15, true), Some(one(0.1, false)), true),
            (one(0.02, true), Some(one(0.01, true)), false),
            (one(0.3, false), Some(one(0.2, true)), true),
            (one(0.3, false), Some(one(0.01, true)), false),
            (one(0.3, false), Some(one(0.2, false)), false),
            (one(0.3, false), None, false),
            (one(0.95, false), Some(one(0.05, true)), false),
            (one(f32::NAN, true), None, false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(is_doubtful(best, rival), doubtful, "row {row}");
        }
    }
}
