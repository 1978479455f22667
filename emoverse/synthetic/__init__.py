"""Generate the synthetic sample corpora: no real face, voice or sentence is in them.

`faces` and `clips` draw talking faces from action units and do not depend on the corpora; `phrases`
makes the transcripts; `corpora` writes MELD, ECF and MOSEI folders in the layouts of the real ones. Identity seeds
below `SAMPLE_IDENTITIES` belong to the sample: anything pretrained must take its identities from elsewhere.
"""

SAMPLE_IDENTITIES = 60
