/** Checksums as the server reads them: `<algorithm>:<base64>`. */

/** Castagnoli's polynomial, bits reversed. */
const polynomial = 0x82f63b78

const table = /* @__PURE__ */ Int32Array.from({ length: 256 }, (_, byte) => {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ polynomial : value >>> 1
  return value
})

export function crc32c(data: Uint8Array): number {
  let crc = -1
  for (const byte of data) crc = (crc >>> 8) ^ (table[(crc ^ byte) & 255] as number)
  return ~crc >>> 0
}

/** SHA-256 costs the page nothing: WebCrypto computes it beside. It exists in secure contexts only. */
export async function checksumOf(algorithm: 'sha256' | 'crc32c', data: Uint8Array): Promise<string> {
  const subtle = algorithm === 'sha256' ? globalThis.crypto?.subtle : undefined
  if (subtle) return `sha256:${base64(new Uint8Array(await subtle.digest('SHA-256', data as Uint8Array<ArrayBuffer>)))}`
  const digest = new Uint8Array(4)
  new DataView(digest.buffer).setUint32(0, crc32c(data))
  return `crc32c:${base64(digest)}`
}

function base64(data: Uint8Array): string {
  return btoa(String.fromCharCode(...data))
}
