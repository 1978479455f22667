"""Say who is in the sample: which drawn identities act in which corpus, and under which invented names.

Identities 0-39 act in every split, 40-59 in test only; about a third of the test clips are theirs.
"""

from typing import Final

NAMES: Final = (
    "Anouk", "Bashir", "Corin", "Dilara", "Emeka", "Frida", "Goran", "Hanneke", "Idris", "Jolanda", "Kwame",
    "Lotte", "Mirela", "Nadir", "Oksana", "Pavel", "Quirin", "Renske", "Soraya", "Tibor", "Ulla", "Viggo",
    "Wanda", "Yusuf",
)  # fmt: skip
"""The cast of MELD and ECF: name number i is identity i."""

GUESTS: Final = (
    "Aziza", "Bram", "Chidi", "Doortje", "Edina", "Fedor", "Gudrun", "Hamza", "Ilka", "Joost", "Katya",
    "Ludo",
)  # fmt: skip
"""The guests of MELD and ECF test: name number i is identity 40 + i."""

FIRST_GUEST: Final = 40
VLOGGERS: Final = tuple(range(24, 40))
"""Identities of MOSEI's videos, one to a video."""
GUEST_VLOGGERS: Final = tuple(range(52, 60))
"""Identities of MOSEI's videos that occur in test only."""

VIDEO_IDS: Final = (
    "DyojyP3V9UW", "125341", "-zLF6XNyuwv", "m_IxXr3c_Nt", "JKC4LKdVQWV", "124801", "oHjLjwVE9Zd",
    "A-duFXCszVN", "Dz8Rbzac1qu", "283053", "zNpoGFvd_Kq", "-BGTcREXeP4", "Jg0mJyp43_Q", "158059",
    "wnHsC7rXb-8", "i7Dw0yNrJwy", "T69Ryz14BNP", "227604", "U34njfrDgkd", "2cSiP3P1N83", "-iDpSpTzHW9",
    "229139", "2IbOExY9NYY", "wd2-ObQEQXo", "dQUBGV-oEuu", "135601", "ib1brBELBeF", "nr7JxKjYIBH",
    "9ZtXoXyg-HI", "61898", "zC1rhDR8y8K", "C-0Qx0xq3oF", "sCCFEmqEmpN", "113914", "4X2oyKIq3gY",
    "SzgwYn6kPgk", "h1kf_WC92p7", "39115", "-F5ScVs0jEV", "xON4bIs2T_l",
)  # fmt: skip
"""Invented video ids shaped like MOSEI's: some all digits, some starting with `-`; none is in CMU-MOSEI."""
