export { type TusHandler, type TusOptions, tusHandler } from './protocols/tus/handler.ts'
