#!/usr/bin/env node
// A Plugboard plugin without the SDK: go-plugin's handshake by hand, then one gRPC
// service. README.md says what each step is for.
import 'reflect-metadata'
import { webcrypto, randomInt } from 'node:crypto'
import { Socket } from 'node:net'
import { join } from 'node:path'
import * as grpc from '@grpc/grpc-js'
import * as loader from '@grpc/proto-loader'
import * as x509 from '@peculiar/x509'
import protobuf from 'protobufjs'
import contract from '../../../sdk/pluginpb/plugin.proto'

const maxMessage = 4 << 20
const controller = 'syntax="proto3"; package plugin; message Empty {} service GRPCController { rpc Shutdown(Empty) returns (Empty); }'

const parsed = (text) => grpc.loadPackageDefinition(loader.fromJSON(protobuf.parse(text, { keepCase: true }).root.toJSON(),
  { keepCase: true, longs: Number, bytes: Buffer, oneofs: true, defaults: true }))
const json = (value) => Buffer.from(JSON.stringify(value))

// What the plugin offers. A command takes its params and a function that tells
// progress; a signal tells it when nobody waits any more.
const params = { type: 'object', properties: { sides: { type: 'integer', minimum: 2, maximum: 1000 } }, additionalProperties: false }
const commands = {
  dice: {
    summary: 'Throws a die', read_only: true, params_schema: json(params),
    result_schema: json({ type: 'object', properties: { thrown: { type: 'integer' } }, required: ['thrown'] }),
    examples: [{ params: json({ sides: 6 }), result: json({ thrown: 4 }) }],
    run: async ({ sides = 6 }) => ({ thrown: randomInt(1, sides + 1) }),
  },
  'dice.six': {
    summary: 'Throws a die until the highest number comes', read_only: true, streaming: true, params_schema: json(params),
    result_schema: json({ type: 'object', properties: { throws: { type: 'integer' } }, required: ['throws'] }),
    examples: [{ params: json({ sides: 3 }), result: json({ throws: 2 }) }],
    run: async ({ sides = 6 }, progress, signal) => {
      for (let throws = 1; ; throws++) {
        const thrown = randomInt(1, sides + 1)
        if (thrown === sides) return { throws }
        progress({ thrown })
        await new Promise((resolve) => setTimeout(resolve, 1))
        signal.throwIfAborted()
      }
    },
  },
}

function describe(_, reply) {
  reply(null, {
    name: 'dice', version: '1.0.0', summary: 'Throws dice, in JavaScript', license: 'Apache-2.0',
    commands: Object.entries(commands).map(([name, { run, ...about }]) => ({ name, ...about })),
  })
}

// The one stream: calls come in, each under an id; answers go out in any order.
function session(stream) {
  const running = new Map()
  let draining = false
  const finish = () => { if (draining && running.size === 0) stream.end() }
  const fail = (call_id, code, message) => stream.write({ failure: { call_id, code, message } })
  async function run({ call_id, command, params, timeout_ms }) {
    const abort = new AbortController()
    const timer = timeout_ms > 0 ? setTimeout(() => abort.abort(new Error('command_timeout')), timeout_ms) : undefined
    running.set(call_id, abort)
    try {
      if (!Object.hasOwn(commands, command)) return fail(call_id, 'unknown_command', 'There is no such command.')
      const result = await commands[command].run(JSON.parse(params.toString() || '{}'),
        (data, percent) => stream.write({ progress: { call_id, data: json(data), ...(percent === undefined ? {} : { percent }) } }), abort.signal)
      stream.write({ result: { call_id, result: json(result) } })
    } catch (error) {
      if (abort.signal.aborted) fail(call_id, abort.signal.reason?.message === 'command_timeout' ? 'command_timeout' : 'command_cancelled', 'The call was ended.')
      else fail(call_id, 'internal', String(error))
    } finally {
      clearTimeout(timer)
      running.delete(call_id)
      finish()
    }
  }
  stream.on('data', (m) => {
    switch (m.message) { // what a later version of the contract adds is not known here, and ignored
      case 'configure': return stream.write({ ready: {} })
      case 'call': return void run(m.call)
      case 'cancel': return void running.get(m.cancel.call_id)?.abort()
      case 'ping': return stream.write({ pong: { nonce: m.ping.nonce } })
      case 'drain': draining = true; return finish()
    }
  })
  stream.on('end', () => process.exit(0))
  stream.on('error', () => process.exit(0)) // the server is gone
}

// AutoMTLS: the server brings a certificate for itself in the environment; ours goes
// back in the handshake line.
async function credentials() {
  if (!process.env.PLUGIN_CLIENT_CERT) return [grpc.ServerCredentials.createInsecure(), '']
  x509.cryptoProvider.set(webcrypto)
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' }
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: '01', name: 'CN=localhost', keys, signingAlgorithm: algorithm,
    notBefore: new Date(Date.now() - 30_000), notAfter: new Date(Date.now() + 10 * 365 * 86_400_000),
    extensions: [new x509.BasicConstraintsExtension(true), new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: 'localhost' }])],
  })
  const key = x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY')
  const pair = { private_key: Buffer.from(key), cert_chain: Buffer.from(certificate.toString('pem')) }
  const ours = Buffer.from(certificate.rawData).toString('base64').replace(/=+$/, '')
  return [grpc.ServerCredentials.createSsl(Buffer.from(process.env.PLUGIN_CLIENT_CERT), [pair], true), ours]
}

async function main() {
  if (process.env.PLUGBOARD_PLUGIN !== 'plugboard.plugin.v1') {
    console.error('dice is a plugin of Plugboard: put this file into the plugins directory of a server.')
    process.exit(1)
  }
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => {}) // the server decides when to stop
  if (process.env.PLUGBOARD_LIFELINE_FD) {
    const lifeline = new Socket({ fd: Number(process.env.PLUGBOARD_LIFELINE_FD), readable: true }) // a file stream would block the exit
    lifeline.on('end', () => process.exit(0)).on('error', () => process.exit(0)).resume()
  }
  const server = new grpc.Server({ 'grpc.max_receive_message_length': maxMessage, 'grpc.max_send_message_length': maxMessage })
  server.addService(parsed(contract).plugboard.plugin.v1.Plugin.service, { Describe: describe, Session: session })
  server.addService(parsed(controller).plugin.GRPCController.service, {
    Shutdown: (_, reply) => { reply(null, {}); setTimeout(() => process.exit(0), 20) }, // once the answer is out
  })
  const socket = join(process.env.PLUGBOARD_RUNTIME_DIR, 'plugin')
  const [secured, certificate] = await credentials()
  server.bindAsync('unix:' + socket, secured, (error) => {
    if (error) throw error
    console.log(`1|1|unix|${socket}|grpc|${certificate}`)
  })
}

main()
