"""AMD Quark, the vendor's quantizer, in an environment of its own."""
