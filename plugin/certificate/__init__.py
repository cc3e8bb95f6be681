"""The instruments' certificate: what they say of worlds whose concepts are known, against what is true."""
