// A real provider of OpenID Connect on loopback: node provider.mjs MODULES PORT CALLBACK KEY. It prints its address, and
// ends with its standard input. KEY tells one set of keys from another, so that a restart changes them.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { pathToFileURL } from 'node:url';

// Only our line goes to standard output: nobody reads on, and a write to a closed pipe would end this process.
console.info = console.error;
const [modules, port, callback, name] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));
const key = (type, options, more) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }),
  use: 'sig',
  ...more,
});
const client = (id, alg, method) => ({
  client_id: id,
  client_secret: `secret of ${id}`,
  redirect_uris: [callback],
  id_token_signed_response_alg: alg,
  token_endpoint_auth_method: method,
});
const accounts = {
  ada: { email: 'ada@example.org', email_verified: true, name: 'Ada' },
  eve: { email: 'ada@example.org', email_verified: false, name: 'Eve' },
  bob: { email: 'Bob@Example.org', email_verified: true, name: 'Bob' },
  zoe: { email: 'zoe@example.org', email_verified: true, name: 'Zoe' },
};
// A provider of its own kind takes secrets in one way only.
const method = name === 'post' ? 'client_secret_post' : 'client_secret_basic';
const server = createServer();
server.listen(Number(port), '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      client('stoa', 'RS256', method),
      client('other', 'RS256', method),
      client('curve', 'ES256', method),
      client('edwards', 'EdDSA', method),
      { ...client('public', 'RS256', 'none'), client_secret: undefined },
    ],
    clientAuthMethods: [method, 'none'],
    jwks: {
      keys: [
        key('rsa', { modulusLength: 2048 }, { alg: 'RS256', kid: `rsa ${name}` }),
        key('ec', { namedCurve: 'P-256' }, { alg: 'ES256', kid: `ec ${name}` }),
        key('ed25519', {}, { alg: 'EdDSA', kid: `ed ${name}` }),
      ],
    },
    enabledJWA: { idTokenSigningAlgValues: ['RS256', 'ES256', 'EdDSA'] },
    // Into the ID token, as Google, Microsoft and Keycloak do.
    conformIdTokenClaims: false,
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
    pkce: { required: () => true },
    cookies: { keys: ['only for this test'] },
    findAccount: (_, id) => accounts[id] && { accountId: id, claims: () => ({ sub: id, ...accounts[id] }) },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
