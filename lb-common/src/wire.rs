//! Enums that cross between userspace and the packet path as numbers.

/// Declares an enum together with its numbers, so that each number is written once.
///
/// A table holds the number, never the enum: any bit pattern must be a valid value there (law 2 of this crate). The
/// macro adds `number`, for writing, and `from_number`, which is `None` for a number that no variant has.
#[macro_export]
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident: $repr:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $number:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr($repr)]
        $vis enum $name {
            $($(#[$variant_meta])* $variant = $number,)+
        }

        impl $name {
            /// The number that stands for this variant in tables and between functions.
            #[inline(always)]
            $vis const fn number(self) -> $repr {
                self as $repr
            }

            /// The inverse of `number`; `None` if no variant has this number.
            #[inline(always)]
            $vis const fn from_number(number: $repr) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}
