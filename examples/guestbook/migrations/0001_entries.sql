CREATE TABLE entries (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text        NOT NULL CHECK (length(name) BETWEEN 1 AND 60),
    message    text        NOT NULL CHECK (length(message) BETWEEN 1 AND 500),
    written_at timestamptz NOT NULL DEFAULT now()
);
