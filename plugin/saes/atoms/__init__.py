"""SAEs on worlds whose true atoms are known: what is recovered, beside what chance and PCA recover."""
