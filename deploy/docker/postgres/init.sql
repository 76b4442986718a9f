-- Databases of the services that keep one of their own, beside Hookline's: their tables are in no publication, and their
-- migrations not ours. Run once, when the volume is made.
\set ON_ERROR_STOP on
\getenv sequin_password SEQUIN_DB_PASSWORD
\getenv svix_password SVIX_DB_PASSWORD

create role sequin login password :'sequin_password';
create database sequin owner sequin;

create role svix login password :'svix_password';
create database svix owner svix;
