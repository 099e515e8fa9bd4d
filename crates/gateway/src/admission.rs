//! Who gets in, and how much of it: the bounds that a client can meet from outside.

/// How many bounds there are.
pub(crate) const BOUNDS: usize = Bound::ALL.len();

macro_rules! bounds {
    ($($(#[$doc:meta])* $bound:ident = $label:literal,)*) => {
        /// A bound that somebody met.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Bound {
            $($(#[$doc])* $bound,)*
        }

        impl Bound {
            /// Every bound, in the order of its number.
            pub(crate) const ALL: &[Self] = &[$(Self::$bound),*];

            /// The value of the label `limit` of `fanfare_refusals_total`: the row of `limits`.
            pub(crate) fn label(self) -> &'static str {
                match self {
                    $(Self::$bound => $label,)*
                }
            }
        }
    };
}

bounds! {
    ProxyHeaderTimeout = "proxy_header_timeout",
}
