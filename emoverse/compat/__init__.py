"""Private interfaces of libraries, one module a library; a contract test says what an upgrade broke."""
